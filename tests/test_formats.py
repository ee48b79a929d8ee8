"""Every form of a transcript says what the transcript says."""

from __future__ import annotations

import csv
import io
import json

import pytest

from speechformer.cli import FORMATS as OFFERED
from speechformer.formats import FORMATS, Printer, write
from speechformer.transcript import Alternative, Command, Segment, Transcript

TWO = Transcript(
    "in/a b.wav", "turn on the light now", 3725.5, 1.0,
    (
        Segment('turn on, "the" light', 0.0, 2.5, -1.25),
        Segment("", 2.5, 3.0, 0.0),
        Segment("now", 3723.04, 3725.5, -0.5),
    ),
)  # fmt: skip
COMMAND = Command("accepted", 0.97, (Alternative("lights on", "Lights", {"state": "on"}, 0.97),), "lights on", {})
ANSWER = Transcript("a.wav", "lights on", 1.0, 0.1, (Segment("lights on", 0.0, 1.0, -0.5, COMMAND),))


def test_the_command_line_offers_every_form() -> None:
    assert OFFERED == FORMATS


def test_text_and_json() -> None:
    assert write(TWO, "txt") == "turn on the light now\n"
    assert json.loads(write(TWO, "json")) == json.loads(write(TWO, "jsonl")) == TWO.to_dict()
    assert write(TWO, "jsonl").count("\n") == 1


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_table_has_a_row_a_segment(form: str, delimiter: str) -> None:
    rows = list(csv.DictReader(io.StringIO(write(TWO, form)), delimiter=delimiter))
    assert [row["text"] for row in rows] == [one.text for one in TWO.segments]
    assert rows[2] == {
        "file": "in/a b.wav", "start_s": "3723.04", "end_s": "3725.5", "text": "now", "log_probability": "-0.5",
    }  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(write(ANSWER, form)), delimiter=delimiter)
    assert (row["status"], row["intent"], json.loads(row["slots"]), row["confidence"]) == (
        "accepted", "Lights", {"state": "on"}, "0.97",
    )  # fmt: skip


def test_subtitles_have_a_cue_for_each_segment_with_words() -> None:
    assert write(TWO, "srt") == (
        '1\n00:00:00,000 --> 00:00:02,500\nturn on, "the" light\n\n2\n01:02:03,040 --> 01:02:05,500\nnow\n'
    )
    assert write(TWO, "vtt") == (
        'WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nturn on, "the" light\n\n01:02:03.040 --> 01:02:05.500\nnow\n'
    )


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_said_is_a_file_all_the_same(form: str) -> None:
    assert write(Transcript("a.wav", "", 1.0, 0.1, (Segment("", 0.0, 1.0, 0.0),)), form) is not None


def printed(form: str, alone: bool, *transcripts: Transcript) -> str:
    stream = io.StringIO()
    printer = Printer(stream, form, alone)
    for one in transcripts:
        printer.add(one)
    printer.close()
    return stream.getvalue()


def test_several_transcripts_on_one_stream() -> None:
    assert printed("txt", False, TWO, ANSWER).startswith("in/a b.wav: turn on the light now\na.wav: lights on\tLights(")
    assert printed("txt", True, TWO) == "turn on the light now\n"
    assert [row["name"] for row in json.loads(printed("json", False, TWO, TWO))] == ["in/a b.wav"] * 2
    assert printed("csv", False, TWO, TWO).count("start_s") == 1
    assert len(printed("jsonl", False, TWO, TWO).splitlines()) == 2
