"""Command text ↔ token ids: a written normaliser and a sentencepiece BPE model."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import sentencepiece
from num2words import num2words

from speechformer.errors import CheckpointError, ConfigError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
SYMBOLS = {"&": " and ", "%": " percent ", "@": " at ", "+": " plus ", "=": " equals ", "°": " degrees "}
PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*")  # as it is to be written, like all that the model writes
ORDINAL = re.compile(r"(\d[\d,]*)(?:st|nd|rd|th)\b")
SEAM = re.compile(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])")  # 5|km, mp|3
CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b")
MONEY = re.compile(r"([$£€])\s?(\d[\d,]*)")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}


def normalise(text: str) -> str:
    """Write text the way the model does: lower-case words of a–z and apostrophes, one space between.

    Accents are dropped, digits are spelt ("7:30" → "seven thirty", "21st" → "twenty first",
    "1.5" → "one point five"), symbols with a common name are read out, other signs become spaces.
    """
    if PLAIN.fullmatch(text):
        return text
    text = unicodedata.normalize("NFKD", text.replace("’", "'").replace("‘", "'")).lower()
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = MONEY.sub(lambda match: f"{match[2]} {CURRENCIES[match[1]]} ", text)
    for symbol, name in SYMBOLS.items():
        text = text.replace(symbol, name)
    text = ORDINAL.sub(lambda match: _number(match[1], "ordinal"), text)
    text = CLOCK.sub(_clock, SEAM.sub(" ", text))
    text = NUMBER.sub(lambda match: _number(match[0], "cardinal"), text)
    words = re.sub(f"[^{ALPHABET}]+", " ", text).split()
    return " ".join(filter(None, map(_trim, words)))


def _trim(word: str) -> str:
    # Quotation marks go, but the apostrophes of "don't" and "boys'" stay.
    return "" if not word.strip("'") else word.lstrip("'").rstrip("'") + ("'" if word.endswith("s'") else "")


def _clock(match: re.Match[str]) -> str:
    hour, minute = _number(match[1], "cardinal"), match[2]
    if minute == "00":
        return f"{hour} o'clock"
    return (
        f"{hour} oh {_number(minute[1], 'cardinal')}" if minute[0] == "0" else f"{hour} {_number(minute, 'cardinal')}"
    )


@cache
def _number(digits: str, kind: str) -> str:
    digits = digits.replace(",", "")
    # Long runs and leading zeros are codes, and codes are read digit by digit.
    if len(digits.split(".")[0]) > 7 or (len(digits) > 1 and digits.startswith("0") and "." not in digits):
        return " ".join(_number(digit, "cardinal") for digit in digits if digit.isdigit())
    spelt = str(num2words(float(digits) if "." in digits else int(digits), to=kind))
    return f" {spelt} ".replace("-", " ").replace(",", "").replace(" and ", " ").strip()


class Tokenizer:
    """A sentencepiece BPE model over normalised text; every word can be spelt, character by character.

    Ids 0–3 are padding (the CTC blank too), begin, end and unknown.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise CheckpointError("the tokenizer is not a sentencepiece model; copy it again") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train on texts; the size obtained can be smaller when the text is little (`len(tokenizer)`)."""
        out = io.BytesIO()
        lines = [text for text in map(normalise, texts) if text]
        if not lines:
            raise ConfigError("there is no text to train a tokenizer on; check the text files")
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            required_chars=ALPHABET,
            character_coverage=1.0,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            normalization_rule_name="identity",
            minloglevel=2,
        )
        return cls(out.getvalue())

    def with_words(self, words: Iterable[str]) -> Tokenizer:
        """Return a tokenizer that writes each of these words as one piece; what it has already keeps its id.

        What is said in passing has no time for more: the CTC head writes at most one piece every 40 ms. A longer word
        that begins like one of these begins with its piece too.
        """
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made when imported

        proto = ModelProto()
        proto.ParseFromString(self.model)
        known = {one.piece for one in proto.pieces}
        for piece in dict.fromkeys("▁" + word for word in map(normalise, words) if word):
            if piece not in known:
                proto.pieces.add(piece=piece, score=0.0, type=ModelProto.SentencePiece.USER_DEFINED)
        proto.trainer_spec.vocab_size = len(proto.pieces)
        return Tokenizer(proto.SerializeToString())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load `tokenizer.model`; raises CheckpointError when it is missing or damaged."""
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: the tokenizer cannot be read; copy the whole model folder") from error
        try:
            return cls(model)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as sentencepiece reads it."""
        Path(path).write_bytes(self.model)

    def __len__(self) -> int:
        return int(self.processor.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        """Normalise text and return its ids, without begin and end."""
        return list(self.processor.EncodeAsIds(normalise(text)))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; padding, begin and end are skipped."""
        return str(self.processor.DecodeIds([i for i in map(int, ids) if i not in (PAD, BOS, EOS)])).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of every id; a leading `▁` starts a word."""
        return [str(self.processor.IdToPiece(int(i))) for i in ids]

    def split(self, piece: str) -> list[int]:
        """Return ids whose pieces side by side are a piece of another tokenizer, the longest first."""
        known = {one: i for i, one in enumerate(self.pieces(range(len(self))))}
        ids: list[int] = []
        while piece:
            end = next((end for end in range(len(piece), 0, -1) if piece[:end] in known), 0)
            ids.append(known[piece[:end]] if end else UNK)
            piece = piece[max(1, end) :]
        return ids
