"""Synthetic speech that a model does not understand is left out of training; what stands is not changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from speechformer.audio import write_wav
from speechformer.data import read_manifest, write_manifest
from tests.conftest import import_recipe

SAID_HEARD = {
    "turn the light on": "turn the night on",
    "open the third window": "hoping verdun dough",
    "set a timer": "",
    "stop": "top",
}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("sift")


class Listener:
    """Hears what `SAID_HEARD` says, in the order in which it is said there."""

    def transcribe_files(self, paths: Sequence[str]) -> Iterator[SimpleNamespace]:
        assert len(paths) == len(SAID_HEARD)
        yield from (SimpleNamespace(text=heard) for heard in SAID_HEARD.values())


def test_what_is_not_understood_is_left_out(recipe: ModuleType, tmp_path: Path) -> None:
    rows = []
    for i, text in enumerate(SAID_HEARD):
        path = tmp_path / f"{i}.wav"
        write_wav(path, np.zeros(1000, np.float32))
        rows.append({"audio_filepath": str(path), "duration": 1.0, "text": text, "speaker": "hibari_en-gb/1"})
    write_manifest(tmp_path / "synthetic9.jsonl", rows)
    recipe.sift(Listener(), tmp_path / "synthetic9.jsonl")
    assert read_manifest(tmp_path / "synthetic9.jsonl") == [rows[0], rows[3]]


def test_a_missing_manifest_is_one_sentence(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe.Transcriber, "from_pretrained", lambda folder: Listener())
    for sets, problem in (([], "has none of synthetic8"), (["--sets", "synthetic9"], "synthetic9.jsonl")):
        monkeypatch.setattr("sys.argv", ["sift.py", "model", "--data", str(tmp_path), *sets])
        assert recipe.main() == 1
        assert problem in capsys.readouterr().err
