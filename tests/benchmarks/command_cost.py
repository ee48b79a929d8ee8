"""What a command set costs: loading a grammar of ten million sentences, and decoding inside it against freely.

    python tests/benchmarks/command_cost.py

A recording of 3 s is decoded by a beam of 8 three ways, in turns: freely, inside the grammar, and as `transcribe
--commands` does (inside, and freely by the greedy search that refusal needs, in one search). Medians count; one thread.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from speechformer import DecodingConfig, Grammar, Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, load_audio
from speechformer.automaton import TokenAutomaton
from speechformer.decoding import Task, search_together
from speechformer.features import collate

SAMPLE = Path(__file__).parents[2] / "assets/set-a-timer-for-five-minutes.wav"
RAW = """
intents:
  Set:
    - "set [the] {place} {thing} to {number} percent [for {number:minutes} minutes] [please]"
    - "show me my {thing} [in the {place}] please"
    - "{number} {number:second} {number:third}"
lists:
  place: {values: [kitchen, bedroom, bathroom, hall, cellar, attic, garage, garden, office, nursery]}
  thing: {values: [light, lamp, heating, radio, fan, oven, files, photos, directories, programs]}
  number: {range: {from: 0, to: 299}}
"""


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--beam", type=int, default=8)
    parser.add_argument("--engine", choices=("auto", "onnx", "torch"), default="auto")
    args = parser.parse_args()
    transcriber = Transcriber.from_pretrained(engine=args.engine, threads=1)
    before = peak_mb()
    started = time.perf_counter()
    grammar = Grammar.parse(RAW)
    automaton = TokenAutomaton(grammar, transcriber.settings.tokenizer)
    took = time.perf_counter() - started
    print(f"{grammar.n_sentences:.3g} sentences loaded in {1000 * took:.0f} ms, {peak_mb() - before:.0f} MB")

    waveform_N = np.resize(load_audio(SAMPLE), 3 * SAMPLE_RATE_HZ)
    features_BTC, frames_B = collate([transcriber.extract(waveform_N)])
    wide = DecodingConfig(beam=args.beam)
    contenders = {
        "free": [Task(wide)],
        "inside": [Task(wide, automaton)],
        "inside, and free greedily": [Task(wide, automaton), Task(DecodingConfig())],
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    network = transcriber.recogniser
    for _ in range(args.rounds):
        for name, tasks in contenders.items():
            started = time.perf_counter()
            search_together(network, network.listen(features_BTC, frames_B), tasks)
            times[name].append(time.perf_counter() - started)
    free = statistics.median(times["free"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:<28}{1000 * median:6.1f} ms  {median / free:.2f} x")
    print(f"{len(automaton.nodes)} states of the automaton were visited")


if __name__ == "__main__":
    main()
