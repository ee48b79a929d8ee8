"""What every script of this recipe does around its work: its help from its first lines, one sentence about an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from speechformer.errors import SpeechformerError


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a docstring, its lines as they are."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number from the command line, and refuses one that is less."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return value

    return number


def status_of(name: str, work: Callable[[], int | None]) -> int:
    """Do the work of a script and return its exit status, 0 if it has none; say in a sentence why it cannot be done."""
    try:
        return work() or 0
    except SpeechformerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
