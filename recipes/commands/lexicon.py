"""Give a model the words of texts, so that freely it writes what is no word only where it has to.

    python recipes/commands/lexicon.py MODEL data/commands/text.txt

Writes MODEL/lexicon.txt: what the texts say at least twice (words of one text alone are misspelt too often), and the
words of drawn texts.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from script import at_least, parser_of, status_of
from texts import drawn_words

from speechformer.errors import ManifestError
from speechformer.files import replace_file
from speechformer.lexicon import Lexicon
from speechformer.model_folder import LEXICON, find_model
from speechformer.tokenizer import normalise

LEAST = 2


def main() -> int:
    """Write the lexicon, or one sentence about why it cannot be."""
    parser = parser_of(__doc__)
    parser.add_argument("model", help="model folder, or the name of a shipped model")
    parser.add_argument("texts", nargs="+", type=Path, help="text files, an utterance a line")
    parser.add_argument("--least", type=at_least(1), default=LEAST, help=f"how often a word is said at least ({LEAST})")
    args = parser.parse_args()
    return status_of("lexicon", lambda: write(args.model, args.texts, args.least))


def write(model: str, texts: list[Path], least: int) -> None:
    """Write a model's lexicon."""
    lexicon, path = Lexicon([*known_words(texts, least), *drawn_words()]), find_model(model) / LEXICON
    replace_file(path, lexicon.save)
    print(f"{path}: {len(lexicon)} words")


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
