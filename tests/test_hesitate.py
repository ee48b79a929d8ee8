"""Real sentences get pauses and held vowels between their words, of their own speakers, and keep their text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.data import read_manifest, write_manifest
from tests.conftest import import_recipe

WORD_S = 0.3


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("hesitate")


def tone(hz: float, length_s: float = WORD_S) -> Waveform:
    times_N = np.arange(int(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.05 * np.sin(2 * np.pi * hz * times_N)).astype(np.float32)


def loudest_hz(waveform_N: Waveform) -> float:
    return float(np.fft.rfftfreq(len(waveform_N), 1 / SAMPLE_RATE_HZ)[np.abs(np.fft.rfft(waveform_N)).argmax()])


def said(text: str, speaker: str, hz: float) -> list[Any]:
    SpokenWord = import_recipe("splice").SpokenWord
    return [SpokenWord(word, speaker, tone(hz if word in ("a", "the") else 3000)) for word in text.split()]


@pytest.fixture
def sentences() -> list[list[Any]]:
    return [said("put a light on", "one", 500), said("open the door", "two", 900), said("close all doors", "three", 0)]


def test_a_vowel_is_held_at_its_own_pitch(recipe: ModuleType) -> None:
    held_N = recipe.held(tone(500, recipe.VOWEL_S), 0.5)
    assert len(held_N) / SAMPLE_RATE_HZ == pytest.approx(0.5, abs=0.02)
    assert loudest_hz(held_N) == pytest.approx(500, abs=20)


def test_people_hesitate_with_vowels_of_their_own(recipe: ModuleType, sentences: list[list[Any]]) -> None:
    voices = recipe.voices_of(sentences)
    assert [len(voices[name].vowels) for name in ("one", "two", "three")] == [1, 1, 0]
    heard: dict[str, set[int]] = {"one": set(), "two": set(), "three": set()}
    for speaker, seed in ((speaker, seed) for speaker in heard for seed in range(40)):
        waveform_N = recipe.hesitation(speaker, voices, random.Random(seed))
        if np.abs(waveform_N).max(initial=0) > 0:
            heard[speaker].add(round(loudest_hz(waveform_N) / 100))
    assert heard == {"one": {5}, "two": {9}, "three": {5, 9}}  # who has none of his own takes anyone's


def test_the_letter_is_no_vowel_to_hesitate_with(recipe: ModuleType) -> None:
    letter = import_recipe("splice").SpokenWord("a", "one", tone(500), is_letter=True)
    assert not recipe.voices_of([[letter]])["one"].vowels


def test_every_word_stays_in_its_place(recipe: ModuleType, sentences: list[list[Any]]) -> None:
    voices = recipe.voices_of(sentences)
    for seed in range(50):
        with_pauses = recipe.hesitate(sentences[0], voices, random.Random(seed))
        assert [word.text for word in with_pauses if word.text] == ["put", "a", "light", "on"]
        between = [word for word in with_pauses if not word.text]
        assert 1 <= len(between) <= 3


def test_what_is_written_is_longer_and_has_the_same_text(
    recipe: ModuleType, sentences: list[list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"audio_filepath": f"{i}.wav", "duration": 1.0, "text": "x", "speaker": "x", "corpus": "an4"} for i in range(3)
    ]
    write_manifest(tmp_path / "train" / "an4.jsonl", rows)
    write_manifest(tmp_path / "train" / "synthetic.jsonl", rows)
    asked: list[int] = []

    def find_words(_: object, rows: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
        asked.append(len(rows))
        return iter([*sentences, said("the end", "four", 500), []])

    monkeypatch.setattr(recipe, "find_words", find_words)
    monkeypatch.setattr(recipe.Transcriber, "from_pretrained", lambda folder: None)
    recipe.write("model", tmp_path, 12, 1)
    assert asked == [3]  # real recordings alone
    written = read_manifest(tmp_path / "train" / "hesitations.jsonl")
    texts = [row["text"] for row in written]
    assert {text: texts.count(text) for text in texts} == {
        "put a light on": 4, "open the door": 4, "close all doors": 4,
    }  # fmt: skip
    longer = [row for row in written if row["duration"] > WORD_S * len(row["text"].split())]
    assert len(longer) > 8
    for row in written:
        assert len(load_audio(row["audio_filepath"])) / SAMPLE_RATE_HZ == pytest.approx(row["duration"], abs=1e-3)
        assert (row["corpus"], row["speaker"]) in {("hesitations", name) for name in ("one", "two", "three")}


def test_no_article_is_one_sentence(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    monkeypatch.setattr("sys.argv", ["hesitate.py", "model", "--data", str(tmp_path)])
    monkeypatch.setattr(recipe.Transcriber, "from_pretrained", lambda folder: None)
    assert recipe.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("hesitate:")
    assert error.count("\n") == 1
