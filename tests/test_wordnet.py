"""Sentences of a dictionary: those that can be spoken, each once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import import_recipe

DATA = """\
  1 This software and database is being provided "as is" to you | "not an example"
00001740 29 v 04 breathe 0 005 | draw air into the lungs; "I can breathe better when the air is clean"; "breathe in"
00001741 29 v 01 wait 0 001 | stay; "wait 10 minutes!"; "hush"; "50 % of us"
00001742 29 v 01 again 0 001 | "breathe in"
00001743 29 v 01 mute 0 001 | without a quotation
"""


def test_examples_are_normalised_and_written_once(tmp_path: Path) -> None:
    (tmp_path / "data.verb").write_text(DATA, "latin-1")
    assert import_recipe("wordnet").read_dictionary(tmp_path) == [
        "i can breathe better when the air is clean",
        "breathe in",
        "wait ten minutes",
    ]


def test_a_folder_without_them_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wordnet.py", str(tmp_path), str(tmp_path / "out.txt")])
    assert import_recipe("wordnet").main() == 1
    assert "has no examples of WordNet" in capsys.readouterr().err
    assert not (tmp_path / "out.txt").exists()


def test_it_writes_a_sentence_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.verb").write_text(DATA, "latin-1")
    monkeypatch.setattr(sys, "argv", ["wordnet.py", str(tmp_path), str(tmp_path / "text" / "wordnet.txt")])
    assert import_recipe("wordnet").main() == 0
    assert (tmp_path / "text" / "wordnet.txt").read_text("utf-8").splitlines()[1:] == ["breathe in", "wait ten minutes"]
