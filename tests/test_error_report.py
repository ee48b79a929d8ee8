"""The tables of errors: against a handful that can be counted by hand."""

from __future__ import annotations

import pytest

from speechformer.error_report import Heard, Words, aligned, groups, report, write

UTTERANCES = [
    Heard("turn on the light", "turn off the light", "a", 2.5, "ann", "home"),
    Heard("go", "no", "b", 0.6, "bob", "words"),
    Heard("go", "go", "c", 0.7, "ann", "words", 6.0),
    Heard("call me back", "call me", "d", 9.0, "bob", "home"),
    Heard("", "the end", "e", 1.0, "bob", "noise"),
]


def test_words_are_counted_as_taken_missed_and_put_in() -> None:
    words = Words.count(UTTERANCES)
    assert dict(words.taken) == {("on", "off"): 1, ("go", "no"): 1}
    assert dict(words.missed) == {"back": 1}
    assert dict(words.added) == {"the": 1, "end": 1}
    assert (words.said["go"], words.wrong("go"), words.wrong("light")) == (2, 1, 0)


@pytest.mark.parametrize(
    ("said", "heard", "lines"),
    [
        ("turn on the light", "turn off the light now", ("turn on  the light ***", "turn off the light now")),
        ("call me back", "call back", ("call me back", "call ** back")),
        ("go", "go", ("go", "go")),
        ("go", "", ("go", "**")),
        ("", "now", ("", "now")),
    ],
)
def test_words_stand_under_each_other(said: str, heard: str, lines: tuple[str, str]) -> None:
    assert aligned(said, heard) == lines


def test_groups_are_scored_apart_the_most_errors_first() -> None:
    found = groups(UTTERANCES, lambda one: one.speaker)
    assert list(found) == ["bob", "ann"]
    assert found["ann"] == {"utterances": 2, "words": 5, "wer": pytest.approx(0.2), "cer": pytest.approx(2 / 19)}
    assert found["bob"]["wer"] == pytest.approx(4 / 4)


@pytest.mark.parametrize(
    ("seconds", "length"), [(0.0, "0–1 s"), (0.99, "0–1 s"), (1.0, "1–2 s"), (7.9, "4–8 s"), (8.0, "from 8 s")]
)
def test_lengths_fall_into_classes(seconds: float, length: str) -> None:
    assert Heard("", "", "", seconds).length == length


def test_the_report_has_every_table_and_the_text_shows_them() -> None:
    tables = report(UTTERANCES)
    assert set(tables["noise"]) == {"as recorded", "6 dB"}
    assert tables["words"][0] == {"word": "back", "said": 1, "wrong": 1}
    text = write(tables)
    for part in ("corpus", "noise", "length", "speaker", "on → off 1", "go → no 1", "back 1", "end 1"):
        assert part in text


def test_nothing_wrong_and_nothing_said_are_told_as_none() -> None:
    assert "none" in write(report([Heard("go", "go", "a", 1.0)]))
    assert report([Heard("", "", "a", 1.0)])["words"] == []
