"""What a command set costs: loading a grammar of ten million sentences, and decoding inside it against freely.

    python tests/benchmarks/command_cost.py

A command of the grammar, and something else, are transcribed freely, by a beam of 8, and inside, in turns: what a
person waits for. Medians count; one thread.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path

from speechformer import Grammar, Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, load_audio
from speechformer.automaton import TokenAutomaton
from speechformer.transcribe import FREE

ASSETS = Path(__file__).parents[2] / "assets"
SAMPLES = {"a command": "turn-off-the-bedroom-light.wav", "something else": "set-a-timer-for-five-minutes.wav"}
RAW = """
intents:
  Set:
    - "set [the] {place} {thing} to {number} percent [for {number:minutes} minutes] [please]"
    - "turn (on|off) the {place} {thing} [please]"
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
    TokenAutomaton(grammar, transcriber.settings.tokenizer)
    took = time.perf_counter() - started
    print(f"{grammar.n_sentences:.3g} sentences loaded in {1000 * took:.0f} ms, {peak_mb() - before:.0f} MB")

    inside = transcriber.with_commands(grammar)
    contenders = {"freely": transcriber.with_commands(None, replace(FREE, beam=args.beam)), "inside": inside}
    for said, name in SAMPLES.items():
        waveform_N = load_audio(ASSETS / name)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, contender in contenders.items():
                started = time.perf_counter()
                contender.transcribe((SAMPLE_RATE_HZ, waveform_N))
                times[name].append(time.perf_counter() - started)
        free = statistics.median(times["freely"])
        print(f"{said}, {len(waveform_N) / SAMPLE_RATE_HZ:.1f} s:")
        for name, taken in times.items():
            median = statistics.median(taken)
            print(f"  {name:<8}{1000 * median:6.1f} ms  {median / free:.2f} x")
    assert inside.commands is not None
    print(f"{len(inside.commands.nodes)} states of the automaton were visited")


if __name__ == "__main__":
    main()
