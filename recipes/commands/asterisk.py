"""Make a dev set of one more voice: what Asterisk's telephone exchange says, read by Allison Smith.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg
    python recipes/commands/asterisk.py /usr/share OUT
    speechformer evaluate OUT/asterisk.jsonl

Clear American English, 16 minutes of phrases, prompts, letters and numbers (CC BY-SA 3.0). Never train on it: it is the
only voice at hand that speaks sentences and that no training set has.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile
from script import parser_of, status_of

from speechformer.data import write_manifest
from speechformer.errors import ManifestError
from speechformer.tokenizer import normalise

SOUNDS = Path("asterisk/sounds/en_US_f_Allison")
TEXTS = Path("doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
# Digits are left out, as no one says how they are read ("500"), and what is in brackets is a sound.
NOT_SAID = re.compile(r"[\[\]()<>\d]")


def main() -> int:
    """Write the recordings and their manifest, or one sentence about why they cannot be."""
    parser = parser_of(__doc__)
    parser.add_argument("share", type=Path, help="folder that the packages are in (/usr/share)")
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args()
    return status_of("asterisk", lambda: write(args.share, args.out / "asterisk.jsonl"))


def write(share: Path, manifest: Path) -> None:
    """Decode the recordings into a folder beside their manifest."""
    rows = list(convert(share, manifest.parent))
    write_manifest(manifest, rows)
    print(f"{manifest}: {len(rows)} recordings")


def convert(share: Path, out: Path) -> Iterator[dict[str, object]]:
    """Decode every recording whose text is known; yield its row."""
    if not (share / TEXTS).is_file() or not (share / SOUNDS).is_dir():
        raise ManifestError(f"{share}: has no sounds of Asterisk; install asterisk-core-sounds-en and its -g722")
    with gzip.open(share / TEXTS, "rt", encoding="utf-8", errors="replace") as lines:
        said = list(prompts(lines))
    for name, text in said:
        recording, decoded = share / SOUNDS / f"{name}.g722", out / "asterisk" / f"{name}.flac"
        if not recording.is_file():
            continue
        decoded.parent.mkdir(parents=True, exist_ok=True)
        decode(recording, decoded)
        yield {
            "audio_filepath": str(decoded.resolve()),
            "duration": round(soundfile.info(decoded).duration, 3),
            "text": text,
            "speaker": "asterisk_allison",
            "corpus": "asterisk",
        }


def prompts(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield names and normalised texts; a line is "name: text", comments begin with a semicolon."""
    for line in lines:
        name, _, text = line.partition(":")
        spoken = normalise(re.sub(r"\.\.\.|-", " ", text))
        if spoken and not line.startswith(";") and not NOT_SAID.search(text):
            yield name.strip(), spoken


def decode(recording: Path, decoded: Path) -> None:
    """Turn G.722 into 16 kHz FLAC."""
    command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "g722", "-i", recording, "-ar", "16000", decoded]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise ManifestError("ffmpeg cannot be found, so G.722 cannot be read; install it") from None
    if done.returncode:
        raise ManifestError(f"{recording}: ffmpeg cannot read it ({done.stderr.strip()})")


if __name__ == "__main__":
    sys.exit(main())
