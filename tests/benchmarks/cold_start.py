"""From the start of a process to text on the screen, and the most memory that it held.

    python tests/benchmarks/cold_start.py

One command, with and without a command set and as JSON; two hundred recordings; one of half an hour. Medians of runs
with a warm disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechformer.audio import SAMPLE_RATE_HZ, load_audio, write_wav

ROOT = Path(__file__).parents[2]
ASSETS = sorted((ROOT / "assets").glob("*.wav"))
SAMPLE = str(ROOT / "assets" / "play-some-music.wav")


def measure(arguments: Sequence[str], rounds: int) -> tuple[float, float]:
    """Return the median time in seconds and the highest peak of memory in MB."""
    times, peaks = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "speechformer", "transcribe", *arguments, "--quiet"], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - started)
        peaks.append(usage.ru_maxrss / 1024)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"cold_start: {' '.join(arguments)} ended with status {process.returncode}")
    return statistics.median(times), max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        many, long = Path(scratch) / "many", Path(scratch) / "long.wav"
        many.mkdir()
        for i in range(200):
            shutil.copyfile(ASSETS[i % len(ASSETS)], many / f"{i:03}.wav")
        waveforms = [load_audio(path) for path in ASSETS]
        half_an_hour = 1800 * SAMPLE_RATE_HZ // sum(map(len, waveforms))
        write_wav(long, np.concatenate(waveforms * half_an_hour))
        contenders = {
            "one command": ([SAMPLE], args.rounds),
            "one command, JSON with word times": ([SAMPLE, "--format", "json"], args.rounds),
            "one command, inside a command set": ([SAMPLE, "--commands", str(ROOT / "assets/commands/media.yaml")],
                                                  args.rounds),
            "200 recordings": ([str(many)], 3),
            "half an hour": ([str(long)], 2),
        }  # fmt: skip
        for name, (arguments, rounds) in contenders.items():
            seconds, peak_mb = measure(arguments, rounds)
            print(f"{name:36}{seconds:7.2f} s {peak_mb:7.0f} MB", flush=True)


if __name__ == "__main__":
    main()
