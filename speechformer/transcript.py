"""What was said, and the forms it is written in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Format = Literal["txt", "json", "jsonl"]


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and its text.

    `log_probability` is the joint log probability of the text given the sound; it is not calibrated.
    """

    text: str
    start_s: float
    end_s: float
    log_probability: float


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. `name` is where it came from, `elapsed_s` what its batch took to transcribe."""

    name: str
    text: str
    duration_s: float
    elapsed_s: float
    segments: tuple[Segment, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values with times rounded to milliseconds."""
        plain: dict[str, Any] = _rounded(asdict(self))
        return plain


def write(transcript: Transcript, form: Format) -> str:
    """Return a transcript as a file of its own would hold it."""
    if form == "txt":
        return transcript.text + "\n"
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2 if form == "json" else None) + "\n"


def write_line(transcript: Transcript, form: Format, alone: bool) -> str:
    """Return a transcript as it stands among others on the screen; a text that is `alone` needs no name."""
    if form == "txt":
        return f"{transcript.text}\n" if alone else f"{transcript.name}: {transcript.text}\n"
    return write(transcript, form)


def write_all(transcripts: Sequence[Transcript]) -> str:
    """Return transcripts as one JSON array."""
    return json.dumps([one.to_dict() for one in transcripts], ensure_ascii=False, indent=2) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
