"""Prepare spoken digits out of nothing but synthesisers: python recipes/digits/prepare.py --out DIR"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import soundfile
from rich.progress import track

from speechformer.data import write_manifest
from speechformer.errors import SpeechformerError
from speechformer.synthesis import Request, Voice, random_voice, require, synthesise
from speechformer.tokenizer import Tokenizer

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEV_ACCENTS = ("en-gb-scotland+f3", "en-029+m2", "en-us+klatt")  # voices that are never trained on


def main() -> int:
    """Synthesise both splits and train the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4000, help="utterances to train on (4000)")
    parser.add_argument("--dev", type=int, default=200, help="utterances to choose by (200)")
    args = parser.parse_args()
    try:
        require(["espeak"])
        for split, n_utterances in (("train", args.train), ("dev", args.dev)):
            prepare(args.out, split, n_utterances)
    except SpeechformerError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    Tokenizer.train(DIGITS, vocab_size=64).save(args.out / "tokenizer.model")
    return 0


def prepare(out: Path, split: str, n_utterances: int) -> None:
    """Synthesise a split and write its manifest."""
    draw = random.Random(split)
    requests = []
    for _ in range(n_utterances):
        text = " ".join(draw.choices(DIGITS, k=draw.randint(1, 4)))
        voice = draw_voice(split, draw)
        requests.append(Request.within(out / "audio" / split, text, voice))
    spoken = track(synthesise(requests), f"synthesising {split}", total=n_utterances)
    write_manifest(out / split / "synthetic.jsonl", [row(request) for request in spoken])


def draw_voice(split: str, draw: random.Random) -> Voice:
    """Draw a voice that belongs to the split."""
    while True:
        voice = random_voice("espeak", draw)
        if split == "dev":
            return Voice("espeak", draw.choice(DEV_ACCENTS), voice.speed, voice.pitch)
        if voice.name not in DEV_ACCENTS:
            return voice


def row(request: Request) -> dict[str, object]:
    """Describe a file that was synthesised."""
    return {
        "audio_filepath": str(request.path.resolve()),
        "duration": soundfile.info(request.path).duration,
        "text": request.text,
        "speaker": request.voice.speaker,
        "corpus": "synthetic",
    }


if __name__ == "__main__":
    sys.exit(main())
