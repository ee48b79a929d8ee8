"""What every script of this recipe does around its work: its help from its first lines, one sentence about an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from speechformer.errors import SpeechformerError


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a docstring, its lines as they are."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def status_of(name: str, work: Callable[[], object]) -> int:
    """Do the work of a script and return its exit status; print one sentence when it cannot be done."""
    try:
        work()
    except SpeechformerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
