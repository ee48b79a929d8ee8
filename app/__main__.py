"""`python -m app` is `speechformer app`, with the same options and exit statuses."""

import sys

from speechformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
