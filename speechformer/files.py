"""Files that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside `path`, under another name of the same kind, then put it in its place."""
    unfinished = path.with_name(f".unfinished.{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
