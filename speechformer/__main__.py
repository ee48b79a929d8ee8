"""`python -m speechformer` is the command line."""

import sys

from speechformer.cli import main

if __name__ == "__main__":
    status = main()
    # CPython remembers an interrupt of code in a string (a named tuple has some), handled or not, and a module that
    # `-m` runs would end by that signal and not with its status: run such code to its end.
    exec("")
    sys.exit(status)
