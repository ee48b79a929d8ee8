"""Which files are transcribed, where their transcripts go, and what is already done.

No two inputs share an output, nothing that stands is overwritten unless it is asked for, and every output is
written under another name first, so what has its name is complete.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from speechformer.errors import OutputError, SpeechformerError

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"}


@dataclass(frozen=True)
class Input:
    """A file to transcribe, and its place below an output folder."""

    path: Path
    mirror: Path


@dataclass(frozen=True)
class Done:
    """What became of one input: a line of the report."""

    path: str
    status: Literal["done", "skipped", "failed", "not reached"]
    outputs: tuple[str, ...] = ()
    duration_s: float = 0.0
    error: str = ""


def find_inputs(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Input], dict[str, str]]:
    """Return every input once, and a sentence for each path that held nothing.

    A path is a file, a folder (searched to its depths, its structure mirrored), a pattern such as `in/**/*.wav` that
    no file is named, or a manifest (`.jsonl`, see `data.read_manifest`). Raises ManifestError for a bad manifest.
    """
    inputs: dict[Path, Input] = {}
    problems: dict[str, str] = {}
    for path in map(Path, paths):
        try:
            found = _expand(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            found = f"{path}: cannot be looked up ({str(reason).lower()}); check the path"
        if isinstance(found, str):
            problems[str(path)] = found
            continue
        for one in found:
            inputs.setdefault(one.path, one)
    return list(inputs.values()), problems


def _expand(path: Path) -> list[Input] | str:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and not file.is_dir())
        return [Input(file, file.relative_to(path)) for file in files] or (
            f"{path}: the folder holds no audio files; give another"
        )
    if path.suffix.lower() == ".jsonl" and path.is_file():
        from speechformer.data import read_manifest

        files = [Path(row["audio_filepath"]) for row in read_manifest(path)]
        return [Input(file, _below(file, path.parent)) for file in files] or f"{path}: the manifest is empty"
    if not path.exists() and glob.has_magic(str(path)):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = sorted(file for file in root.glob(str(path.relative_to(root))) if not file.is_dir())
        return [Input(file, _below(file, root)) for file in files] or f"{path}: no file has such a name; check it"
    return [Input(path, Path(path.name))]


def _below(path: Path, folder: Path) -> Path:
    """Return a file's place below a folder; one that lies elsewhere keeps what differs of its path."""
    return Path(*(part for part in Path(os.path.relpath(path, folder)).parts if part != ".."))


def read_list(path: Path) -> list[str]:
    """Read a file of paths, one a line; those that are relative are taken from where the program runs."""
    try:
        return [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechformerError(f"{path}: the list cannot be read as text; write one path a line") from error


def plan_outputs(inputs: Sequence[Input], folder: Path | None, forms: Sequence[str]) -> dict[Path, tuple[Path, ...]]:
    """Return the outputs of each input: in `folder`, or beside it.

    Inputs that differ in nothing but their suffix keep it: a.wav.txt and a.flac.txt. Raises SpeechformerError where
    two inputs would still share an output.
    """
    bases = {one.path: (folder / one.mirror if folder else one.path) for one in inputs}
    stems = Counter(base.with_suffix("") for base in bases.values())
    outputs: dict[Path, tuple[Path, ...]] = {}
    owners: dict[Path, Path] = {}
    for path, base in bases.items():
        stem = base.with_suffix("") if stems[base.with_suffix("")] == 1 else base
        outputs[path] = tuple(stem.with_name(f"{stem.name}.{form}") for form in forms)
        for output in outputs[path]:
            if output in owners:
                raise SpeechformerError(
                    f"{owners[output]} and {path} would both be written to {output}; transcribe them apart"
                )
            owners[output] = path
    return outputs


def check_outputs(outputs: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse to overwrite. Raises SpeechformerError, naming the first output that stands."""
    standing = [output for group in outputs.values() for output in group if output.exists()]
    if standing:
        others = f" and {len(standing) - 1} more" if len(standing) > 1 else ""
        raise SpeechformerError(
            f"{standing[0]}{others}: stands already; give --resume to leave it, --overwrite to write it anew, "
            "or another --output-dir"
        )


def write_file(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OutputError where that cannot be done."""
    unfinished = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, "utf-8", errors="backslashreplace")  # file names can be any bytes
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another folder"
        ) from error


def write_report(path: Path, results: Sequence[Done]) -> None:
    """Write what became of every input, a JSON object a line."""
    write_file(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in results))
