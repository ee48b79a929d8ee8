"""Leave out synthetic speech that nobody could understand, as far as a trained model can tell.

    python recipes/commands/sift.py MODEL --data data/commands

Rewrites those of `train/synthetic8.jsonl`, `9`, `11` and `12` that there are, what networks said,
without the utterances of which the model gets nearly every word wrong; `prepare.py` writes them whole again.
One or two words stay: a wrong one says little about them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import track
from script import parser_of, status_of

from speechformer import Transcriber
from speechformer.data import read_manifest, write_manifest
from speechformer.errors import ManifestError
from speechformer.metrics import count_errors

SETS = ("synthetic8", "synthetic9", "synthetic11", "synthetic12")
WRONG = 0.9  # share of the words
FEWEST = 3


def main() -> int:
    """Sift the manifests; print how much is left, or one sentence about what cannot be done."""
    parser = parser_of(__doc__)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--sets", nargs="+", help=f"manifests in train/ (those there are of {', '.join(SETS)})")
    args = parser.parse_args()
    return status_of("sift", lambda: sift_all(args.model, args.data / "train", args.sets))


def sift_all(model: Path, train: Path, sets: list[str] | None) -> None:
    """Sift the sets, or those there are of `SETS`, where none are named."""
    manifests = [train / f"{name}.jsonl" for name in sets or SETS]
    if not sets:
        manifests = [manifest for manifest in manifests if manifest.exists()]
    if not manifests:
        raise ManifestError(f"{train}: has none of {', '.join(SETS)}; prepare.py writes them")
    transcriber = Transcriber.from_pretrained(model)
    for manifest in manifests:
        sift(transcriber, manifest)


def sift(transcriber: Transcriber, manifest: Path) -> None:
    """Rewrite one manifest without what `transcriber` does not understand."""
    rows = read_manifest(manifest)
    heard = transcriber.transcribe_files([row["audio_filepath"] for row in rows])
    kept = [
        row for row, answer in zip(rows, track(heard, manifest.stem, len(rows)), strict=True)
        if is_understood(row["text"], answer.text)
    ]  # fmt: skip
    write_manifest(manifest, kept)
    print(f"{manifest.stem:20} {len(kept):6} of {len(rows)} utterances are understood")


def is_understood(text: str, heard: str) -> bool:
    """Tell whether enough of a text was heard; of a short one too little can be said."""
    n_words = len(text.split())
    return n_words < FEWEST or count_errors(text, heard).word_errors / n_words < WRONG


if __name__ == "__main__":
    sys.exit(main())
