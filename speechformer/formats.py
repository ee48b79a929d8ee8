"""The forms a transcript is written in: text, JSON, tables and subtitles.

`write` returns what a file of its own holds; a `Printer` writes transcripts one after another to one stream.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, TextIO

from speechformer.transcript import Segment, Transcript

FORMATS = ("txt", "json", "jsonl", "csv", "tsv", "srt", "vtt")
SUBTITLES = ("srt", "vtt")
COLUMNS = ("file", "start_s", "end_s", "text", "log_probability")
COMMAND_COLUMNS = ("status", "intent", "slots", "confidence")


def write(transcript: Transcript, form: str) -> str:
    """Return a transcript as a file of its own would hold it."""
    if form == "txt":
        return plain_text(transcript) + "\n"
    if form in ("csv", "tsv"):
        with_commands = transcript.command is not None
        return _table([_header(with_commands), *_rows(transcript, with_commands)], form)
    if form in SUBTITLES:
        return _subtitles(transcript, form)
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2 if form == "json" else None) + "\n"


class Printer:
    """Writes transcripts to one stream; `alone` is a single one that was asked for by its name."""

    def __init__(self, stream: TextIO, form: str, alone: bool) -> None:
        self.stream, self.form, self.alone = stream, form, alone
        self.array: list[dict[str, Any]] = []
        self.n_written = 0

    def add(self, transcript: Transcript) -> None:
        """Write a transcript, or keep it for the array that several make."""
        if self.form == "json" and not self.alone:
            self.array.append(transcript.to_dict())
            return
        text = write(transcript, self.form)
        if self.form == "txt" and not self.alone:
            text = "".join(f"{transcript.name}: {line}\n" for line in text.removesuffix("\n").split("\n"))
        if self.form in ("csv", "tsv") and self.n_written:
            text = text.partition("\n")[2]
        self.stream.write(text)
        self.stream.flush()
        self.n_written += 1

    def close(self) -> None:
        """Write what was kept."""
        if self.form == "json" and not self.alone:
            self.stream.write(json.dumps(self.array, ensure_ascii=False, indent=2) + "\n")


def plain_text(transcript: Transcript) -> str:
    """Return the text; with a command set, what became of each segment, a line each."""
    commands = [segment.command for segment in transcript.segments if segment.command]
    return "\n".join(map(str, commands)) if commands else transcript.text


def _header(with_commands: bool) -> Sequence[str]:
    return (*COLUMNS, *COMMAND_COLUMNS) if with_commands else COLUMNS


def _rows(transcript: Transcript, with_commands: bool) -> list[list[Any]]:
    rows = []
    for one in transcript.segments:
        row = [transcript.name, round(one.start_s, 3), round(one.end_s, 3), one.text, round(one.log_probability, 3)]
        if with_commands and one.command:
            best = one.command.alternatives[0] if one.command.accepted else None
            slots = json.dumps(best.slots, ensure_ascii=False) if best else ""
            row += [one.command.status, best.intent if best else "", slots, round(one.command.confidence, 3)]
        rows.append(row)
    return rows


def _table(rows: Sequence[Sequence[Any]], form: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="," if form == "csv" else "\t", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _subtitles(transcript: Transcript, form: str) -> str:
    point = "," if form == "srt" else "."
    cues = [
        f"{_clock(one.start_s, point)} --> {_clock(one.end_s, point)}\n{_cue(one)}\n"
        for one in transcript.segments
        if one.text
    ]
    if form == "vtt":
        return "\n".join(["WEBVTT\n", *cues])
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _cue(segment: Segment) -> str:
    return segment.text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "→")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
