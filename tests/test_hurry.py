"""What networks said is said again in passing: shorter, its function words softer, as one recording with its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from speechformer.audio import SAMPLE_RATE_HZ, load_audio
from speechformer.data import read_manifest, write_manifest
from tests.conftest import import_recipe

TEXTS = ("put it at noon please", "stop now", "turn on a light", "go to bed", "to the left")
WORD_S = 0.8


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("hurry")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {
            "audio_filepath": f"{i}.wav",
            "duration": 2.0,
            "text": text,
            "speaker": "kokoro_en-gb/1",
            "corpus": "synthetic8",
        }
        for i, text in enumerate(TEXTS)
    ]
    write_manifest(tmp_path / "train" / "synthetic8.jsonl", rows)
    write_manifest(tmp_path / "train" / "an4.jsonl", [{**row, "corpus": "an4"} for row in rows])
    return tmp_path


def test_only_what_has_a_function_word_within_is_hurried(recipe: ModuleType) -> None:
    assert [recipe.hurries(text) for text in TEXTS] == [True, False, True, True, True]
    assert not recipe.hurries("at noon")
    assert not recipe.hurries("turn left now")


def test_what_is_hurried_is_shorter_and_says_the_same(
    recipe: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound_N = np.sin(np.arange(int(WORD_S * SAMPLE_RATE_HZ)) / 5).astype(np.float32)
    asked: list[str] = []
    SpokenWord = import_recipe("splice").SpokenWord

    def find_words(_: object, rows: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
        for row in rows:
            asked.append(row["corpus"])
            words = row["text"].split()
            understood = words[:2] if row["text"] == "go to bed" else words
            yield [SpokenWord(word, row["speaker"], 0.5 * sound_N) for word in understood]

    monkeypatch.setattr(recipe, "find_words", find_words)
    monkeypatch.setattr(recipe.Transcriber, "from_pretrained", lambda folder: None)
    recipe.write("model", data, 100, 1)
    assert asked == ["synthetic8"] * 4
    rows = read_manifest(data / "train" / "hurried.jsonl")
    assert {row["text"] for row in rows} == set(TEXTS) - {"stop now", "go to bed"}  # of that one two words were found
    for row in rows:
        waveform_N = load_audio(row["audio_filepath"])
        assert row["duration"] == pytest.approx(len(waveform_N) / SAMPLE_RATE_HZ, abs=1e-3)
        assert row["duration"] < 0.9 * WORD_S * len(row["text"].split())
        assert row["corpus"] == "hurried"


def test_nothing_to_hurry_is_one_sentence(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    monkeypatch.setattr("sys.argv", ["hurry.py", "model", "--data", str(tmp_path)])
    assert recipe.main() == 1
    assert "prepare.py" in capsys.readouterr().err
