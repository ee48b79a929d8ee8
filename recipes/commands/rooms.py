"""Simulate rooms that people give commands in: impulse responses from a mouth to a microphone.

    python recipes/commands/rooms.py --data data/commands

The measured ones that can be had freely are of halls more than of kitchens. Here rooms are boxes, of 2 by 2 m to 8 by
6 m, with walls of their own, that die away in 0.15 to 0.9 s, with a microphone 0.2 to 3 m from who speaks (image
method, Allen and Berkley 1979, computed by pyroomacoustics). Writes `rooms/`, adds them to `train/_rir.jsonl`, and
writes others into `rooms_dev/` and `rooms_test/`, for `evaluate --rooms`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyroomacoustics
import soundfile
from script import at_least, parser_of, status_of

from speechformer.audio import SAMPLE_RATE_HZ, Waveform
from speechformer.data import Row, read_manifest, write_manifest

CORPUS = "simulated_rooms"
SMALLEST_M, LARGEST_M = (2.2, 2.2, 2.2), (8.0, 6.0, 3.3)
HEIGHT_M, DISTANCE_M, OFF_THE_WALL_M = (0.5, 1.6), (0.2, 3.0), 0.2
DIES_AWAY_S = (0.15, 0.9)  # by 60 dB
BANDS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
ABSORBED = (0.6, 0.8, 1.0, 1.1, 1.2, 1.3, 1.4)  # of a band, against what all absorb in the mean
BAND_SPREAD, WALL_SPREAD = (0.8, 1.2), (0.6, 1.4)
MOST_REFLECTIONS = 50
WALLS = ("east", "west", "north", "south", "floor", "ceiling")


def main() -> int:
    """Write impulse responses and their manifest, or one sentence about what cannot be done."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument("--rooms", type=at_least(1), default=1_000, help="how many for training (1000)")
    parser.add_argument("--kept", type=at_least(0), default=60, help="how many more for dev and for test, each (60)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return status_of("rooms", lambda: write(args))


def write(args: argparse.Namespace) -> None:
    """Write rooms in the place of those that a run before has written."""
    manifest = args.data / "train" / "_rir.jsonl"
    measured = [row for row in read_manifest(manifest) if row.get("corpus") != CORPUS]
    rows = [
        Row(audio_filepath=str(path.resolve()), use="room", corpus=CORPUS)
        for path in write_rooms(args.data / "rooms", args.seed, args.rooms)
    ]
    write_manifest(manifest, [*measured, *rows])
    for number, split in enumerate(("dev", "test"), 1):
        write_rooms(args.data / f"rooms_{split}", args.seed + number, args.kept)
    print(f"{len(rows)} simulated rooms beside {len(measured)} measured ones: {manifest}")


def write_rooms(folder: Path, seed: int, n_rooms: int) -> list[Path]:
    """Write impulse responses that a seed draws into an empty folder, and return their files."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05}.flac" for number in range(n_rooms)]
    for path, response_N in zip(paths, simulate(seed), strict=False):
        soundfile.write(path, response_N / np.abs(response_N).max() * 0.9, SAMPLE_RATE_HZ)
    return paths


def simulate(seed: int) -> Iterator[Waveform]:
    """Draw rooms, and yield the impulse response of each."""
    draw = np.random.default_rng(seed)
    while True:
        size_3 = draw.uniform(SMALLEST_M, LARGEST_M)
        microphone_3 = size_3 * draw.uniform(0.1, 0.9, 3)
        microphone_3[2] = draw.uniform(*HEIGHT_M)
        way_3 = draw.standard_normal(3) * (1, 1, 0.3)  # people are hardly above or below it
        distance_m = np.exp(draw.uniform(*np.log(DISTANCE_M)))
        mouth_3 = microphone_3 + distance_m * way_3 / np.linalg.norm(way_3)
        dies_away_s = draw.uniform(*DIES_AWAY_S)
        walls = {wall: draw.uniform(*WALL_SPREAD) for wall in WALLS}
        bands = np.multiply(ABSORBED, draw.uniform(*BAND_SPREAD, len(BANDS_HZ)))
        try:
            absorbed, n_reflections = pyroomacoustics.inverse_sabine(dies_away_s, size_3)
        except ValueError:  # no walls absorb so much
            continue
        if (mouth_3 < OFF_THE_WALL_M).any() or (mouth_3 > size_3 - OFF_THE_WALL_M).any():
            continue
        materials = {wall: np.clip(absorbed * share * bands, 0.02, 0.95) for wall, share in walls.items()}
        yield respond(size_3, mouth_3, microphone_3, materials, min(n_reflections, MOST_REFLECTIONS))


def respond(
    size_3: npt.NDArray[np.float64],
    mouth_3: npt.NDArray[np.float64],
    microphone_3: npt.NDArray[np.float64],
    absorbed: dict[str, npt.NDArray[np.float64]],
    n_reflections: int,
) -> Waveform:
    """Return the impulse response of a box, in metres, whose walls absorb so much of each band."""
    materials = {
        wall: pyroomacoustics.Material({"coeffs": shares.tolist(), "center_freqs": list(BANDS_HZ)})
        for wall, shares in absorbed.items()
    }
    room = pyroomacoustics.ShoeBox(
        size_3, fs=SAMPLE_RATE_HZ, materials=materials, max_order=n_reflections, air_absorption=True
    )
    room.add_source(mouth_3)
    room.add_microphone(microphone_3)
    room.compute_rir()
    return np.asarray(room.rir[0][0], np.float32)


if __name__ == "__main__":
    sys.exit(main())
