"""A telephone exchange's recordings become a dev set: those whose text says how they are read."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechformer.data import read_manifest
from tests.conftest import import_recipe

TEXTS = """\
; Core Asterisk Sounds in English

activated: Activated.
beep: [this is a simple beep tone]
call-fwd-no-ans: Call-Forward on No Answer...
dir-multi9: Press 9 for more entries.
letters/a: a
not-recorded: Goodbye.
"""


@pytest.fixture
def share(tmp_path: Path) -> Path:
    recipe = import_recipe("asterisk")
    (tmp_path / recipe.TEXTS).parent.mkdir(parents=True)
    (tmp_path / recipe.TEXTS).write_bytes(gzip.compress(TEXTS.encode()))
    for name in ("activated", "beep", "call-fwd-no-ans", "dir-multi9", "letters/a"):
        sound = tmp_path / recipe.SOUNDS / f"{name}.g722"
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_bytes(bytes(100))
    return tmp_path


def test_what_is_said_is_written_with_its_text(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = import_recipe("asterisk"), share / "out"
    monkeypatch.setattr(
        recipe, "decode", lambda _, decoded: soundfile.write(decoded, np.zeros(8000, np.float32), 16_000)
    )
    monkeypatch.setattr(sys, "argv", ["asterisk.py", str(share), str(out)])
    assert recipe.main() == 0
    rows = read_manifest(out / "asterisk.jsonl")
    assert [row["text"] for row in rows] == ["activated", "call forward on no answer", "a"]
    assert {row["duration"] for row in rows} == {0.5}
    assert all(Path(row["audio_filepath"]).is_file() for row in rows)


def test_a_folder_without_the_packages_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["asterisk.py", str(tmp_path), str(tmp_path)])
    assert import_recipe("asterisk").main() == 1
    assert "install asterisk-core-sounds-en" in capsys.readouterr().err


def test_what_ffmpeg_cannot_read_is_named(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sys, "argv", ["asterisk.py", str(share), str(tmp_path / "out")])
    assert import_recipe("asterisk").main() == 1
    assert "ffmpeg cannot be found" in capsys.readouterr().err
    (programs / "ffmpeg").write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    (programs / "ffmpeg").chmod(0o755)
    assert import_recipe("asterisk").main() == 1
    assert "activated.g722: ffmpeg cannot read it (no)" in capsys.readouterr().err
