"""Say again what networks have said, as people say it in passing: faster, ever softer, function words most of all.

    python recipes/commands/hurry.py MODEL --data data/commands

People reduce "at" and "with" further than any synthesiser does. A trained model says where the words of synthesised
sentences lie; each is hurried and softened as `splice.fluent` does it, and they are put together again. Unlike words
of many recordings put together (`splice.py`) they still run into each other. Writes `train/hurried.jsonl` with its
audio in `hurried/`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from prepare import hours
from splice import find_words, fluent, join, rows_of, run, write_spoken

from speechformer import Transcriber
from speechformer.errors import ManifestError
from speechformer.synthesis import WEAK_FORMS

SETS = ("synthetic8", "synthetic9", "synthetic11", "synthetic12")  # the engines most like people
FEWEST = 3  # words


def main() -> int:
    """Write the audio and its manifest, or one sentence about what cannot be done."""
    return run("hurry", __doc__, 10_000, write)


def write(model: str, data: Path, n_utterances: int, seed: int) -> None:
    """Hurry utterances that have function words within them."""
    draw = random.Random(seed)
    rows = [row for row in rows_of(data, SETS) if hurries(row["text"])]
    if not rows:
        raise ManifestError(f"{data / 'train'}: has no {' or '.join(SETS)}; prepare.py writes them, given the networks")
    chosen = draw.sample(rows, min(n_utterances, len(rows)))
    found = find_words(Transcriber.from_pretrained(model), chosen)
    understood = (words for words in found if len(words) >= FEWEST)
    hurried = write_spoken(data, "hurried", ((words, join(fluent(words, draw), draw)) for words in understood))
    print(f"{len(hurried)} of {len(chosen)} utterances, {hours(hurried):.2f} h")


def hurries(text: str) -> bool:
    """Tell whether a text has a function word that is neither its first nor its last word."""
    words = text.split()
    return len(words) >= FEWEST and any(word in WEAK_FORMS for word in words[1:-1])


if __name__ == "__main__":
    sys.exit(main())
