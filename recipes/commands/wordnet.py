"""Write the example sentences of WordNet, one a line: everyday English in far more words than commands have.

    python recipes/commands/wordnet.py /usr/share/wordnet DIR/text/wordnet.txt

The first argument is WordNet's dictionary folder (`data.noun`, `data.verb`, …; Debian: `wordnet-base`). Each line there
is a synset, and what is between quotes after its bar says how it is used (wndb(5WN), "Data File Format").
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from script import parser_of, status_of

from speechformer.errors import ManifestError
from speechformer.tokenizer import normalise

SAID = re.compile(r"[A-Za-z0-9' ,.;:!?-]+")
N_WORDS = (2, 14)


def main() -> int:
    """Write the file, or one sentence about why it cannot be."""
    parser = parser_of(__doc__)
    parser.add_argument("dictionary", type=Path, help="folder with data.noun, data.verb, data.adj and data.adv")
    parser.add_argument("out", type=Path, help="text file to write")
    args = parser.parse_args()
    return status_of("wordnet", lambda: write(args.dictionary, args.out))


def write(dictionary: Path, out: Path) -> None:
    """Write the examples of a dictionary."""
    examples = read_dictionary(dictionary)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(examples) + "\n", "utf-8")
    print(f"{out}: {len(examples)} sentences")


def read_dictionary(folder: Path) -> list[str]:
    """Return every example of a dictionary once. Raises ManifestError where the folder holds none."""
    lines = (line for path in sorted(folder.glob("data.*")) for line in path.read_text("latin-1").splitlines())
    examples = list(dict.fromkeys(sentences(lines)))
    if not examples:
        raise ManifestError(f"{folder}: has no examples of WordNet; give the folder with its data.noun and data.verb")
    return examples


def sentences(lines: Iterable[str]) -> Iterator[str]:
    """Yield what a data file quotes, normalised: what can be spoken as it is written, of a few words at least."""
    for line in lines:
        if line.startswith("  "):  # the licence
            continue
        for quoted in re.findall(r'"([^"]+)"', line.partition("|")[2]):
            text = normalise(quoted) if SAID.fullmatch(quoted) else ""
            if N_WORDS[0] <= len(text.split()) <= N_WORDS[1]:
                yield text


if __name__ == "__main__":
    sys.exit(main())
