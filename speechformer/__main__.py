"""`python -m speechformer` is the command line."""

import sys

from speechformer.cli import main

if __name__ == "__main__":
    sys.exit(main())
