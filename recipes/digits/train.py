"""Train a digit transcriber: python recipes/digits/train.py RUN [a.b=value ...]"""

import sys
from pathlib import Path

from speechformer.config import load_config
from speechformer.training import TrainConfig, train

if __name__ == "__main__":
    config = load_config(TrainConfig, Path(__file__).with_name("config.yaml"), sys.argv[2:])
    print(train(config, Path(sys.argv[1])))
