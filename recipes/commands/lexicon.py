"""Give a model the words of texts, so that freely it writes what is no word only where it has to.

    python recipes/commands/lexicon.py MODEL data/commands/text.txt

Writes MODEL/lexicon.txt: what the texts say at least twice (words of one text alone are misspelt too often).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from speechformer.errors import ManifestError, SpeechformerError
from speechformer.files import replace_file
from speechformer.lexicon import Lexicon
from speechformer.model_folder import LEXICON, find_model
from speechformer.tokenizer import normalise

LEAST = 2


def main() -> int:
    """Write the lexicon, or one sentence about why it cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or the name of a shipped model")
    parser.add_argument("texts", nargs="+", type=Path, help="text files, an utterance a line")
    parser.add_argument("--least", type=int, default=LEAST, help=f"how often a word is said at least ({LEAST})")
    args = parser.parse_args()
    try:
        lexicon, folder = Lexicon(known_words(args.texts, args.least)), find_model(args.model)
    except SpeechformerError as error:
        print(f"lexicon: {error}", file=sys.stderr)
        return 1
    replace_file(folder / LEXICON, lexicon.save)
    print(f"{folder / LEXICON}: {len(lexicon)} words")
    return 0


def known_words(paths: list[Path], least: int) -> list[str]:
    """Return the words that the texts say so often together. Raises ManifestError for what cannot be read."""
    said: Counter[str] = Counter()
    for path in paths:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: cannot be read as text ({error}); give a text file") from error
        for line in lines:
            said.update(normalise(line).split())
    words = [word for word, times in said.items() if times >= least]
    if not words:
        raise ManifestError(f"{paths[0]}: says no word {least} times; give more text")
    return words


if __name__ == "__main__":
    sys.exit(main())
