"""Say again what networks have said, as people say it in passing: faster, ever softer, function words most of all.

    python recipes/commands/hurry.py MODEL --data data/commands

People reduce "at" and "with" further than any synthesiser does. A trained model says where the words of synthesised
sentences lie; each is hurried and softened as `splice.fluent` does it, and they are put together again. Unlike words
of many recordings put together (`splice.py`) they still run into each other. Writes `train/hurried.jsonl` with its
audio in `hurried/`.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import soundfile
from prepare import hours
from splice import find_words, fluent, join

from speechformer import Transcriber
from speechformer.audio import SAMPLE_RATE_HZ
from speechformer.data import read_folder, write_manifest
from speechformer.errors import ManifestError, SpeechformerError
from speechformer.synthesis import WEAK_FORMS

SETS = ("synthetic8", "synthetic11", "synthetic12")  # the engines most like people
FEWEST = 3  # words

Row = dict[str, Any]


def main() -> int:
    """Write the audio and its manifest, or one sentence about what cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument("--utterances", type=int, default=9_000, help="how many to take (9000)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        write(args.model, args.data, args.utterances, args.seed)
    except SpeechformerError as error:
        print(f"hurry: {error}", file=sys.stderr)
        return 1
    return 0


def write(model: str, data: Path, n_utterances: int, seed: int) -> None:
    """Hurry utterances that have function words within them."""
    draw = random.Random(seed)
    sets = [part for name, part in read_folder(data / "train").items() if name in SETS]
    rows = [row for part in sets for row in part if hurries(row["text"])]
    if not rows:
        raise ManifestError(f"{data / 'train'}: has no {' or '.join(SETS)}; prepare.py writes them, given the networks")
    chosen = draw.sample(rows, min(n_utterances, len(rows)))
    folder = data / "hurried"
    folder.mkdir(parents=True, exist_ok=True)
    hurried: list[Row] = []
    for number, words in enumerate(find_words(Transcriber.from_pretrained(model), chosen)):
        if len(words) < FEWEST:
            continue  # too much of it was not understood
        waveform_N = join(fluent(words, draw), draw)
        path = folder / f"{number:06}.flac"
        soundfile.write(path, waveform_N, SAMPLE_RATE_HZ)
        hurried.append(
            {
                "audio_filepath": str(path.resolve()),
                "duration": round(len(waveform_N) / SAMPLE_RATE_HZ, 3),
                "text": " ".join(word.text for word in words),
                "speaker": words[0].speaker,
                "corpus": "hurried",
            }
        )
    write_manifest(data / "train" / "hurried.jsonl", hurried)
    print(f"{len(hurried)} of {len(chosen)} utterances, {hours(hurried):.2f} h")


def hurries(text: str) -> bool:
    """Tell whether a text has a function word that is neither its first nor its last word."""
    words = text.split()
    return len(words) >= FEWEST and any(word in WEAK_FORMS for word in words[1:-1])


if __name__ == "__main__":
    sys.exit(main())
