"""Simulated rooms: they die away as real ones do, and take the place of those of a run before."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechformer.audio import SAMPLE_RATE_HZ
from speechformer.data import read_manifest, write_manifest
from tests.conftest import import_recipe

pytest.importorskip("pyroomacoustics", reason="rooms are simulated with pyroomacoustics")
rooms = import_recipe("rooms")


def dies_away_s(response_N: np.ndarray) -> float:
    """Return how long a room takes to die away by 60 dB, from the fall between 5 and 25 dB (ISO 3382-1, T20)."""
    level_db_N = 10 * np.log10(np.cumsum(response_N[::-1] ** 2)[::-1] / np.sum(response_N**2) + 1e-12)
    return 3 * float(np.argmax(level_db_N < -25) - np.argmax(level_db_N < -5)) / SAMPLE_RATE_HZ


def test_drawn_rooms_are_as_dry_and_as_live_as_homes_and_no_two_are_alike() -> None:
    drawn = list(itertools.islice(rooms.simulate(3), 8))
    assert [np.array_equal(*pair) for pair in itertools.pairwise(drawn)] == [False] * 7
    assert all(np.isfinite(one).all() and one.dtype == np.float32 for one in drawn)
    fall_s = [dies_away_s(one) for one in drawn]
    assert min(fall_s) > 0.05
    assert max(fall_s) < 1.5
    again = next(rooms.simulate(3))
    assert np.allclose(again, drawn[0])


def test_they_take_the_place_of_those_of_a_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "train" / "_rir.jsonl"
    write_manifest(manifest, [{"audio_filepath": "hall.wav", "use": "room", "corpus": "measured"}])
    for n_rooms in ("3", "2"):
        monkeypatch.setattr("sys.argv", ["rooms.py", "--data", str(tmp_path), "--rooms", n_rooms, "--kept", "1"])
        assert rooms.main() == 0
    measured, *simulated = read_manifest(manifest)
    assert measured["corpus"] == "measured"
    assert len(simulated) == 2
    first = {split: soundfile.read(next((tmp_path / f"rooms_{split}").iterdir()))[0] for split in ("dev", "test")}
    first["train"], _ = soundfile.read(simulated[0]["audio_filepath"])
    assert len({one.tobytes() for one in first.values()}) == 3
    for row in simulated:
        response_N, rate_hz = soundfile.read(row["audio_filepath"])
        assert rate_hz == SAMPLE_RATE_HZ
        assert np.abs(response_N).max() == pytest.approx(0.9, abs=1e-3)
