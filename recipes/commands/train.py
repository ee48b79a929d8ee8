"""Train the command transcriber: python recipes/commands/train.py RUN [a.b=value ...]"""

import sys
from pathlib import Path

from speechformer.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    config = Path(__file__).with_name("config.yaml")
    sys.exit(main(["train", str(config), *sys.argv[2:], "--run", sys.argv[1]]))
