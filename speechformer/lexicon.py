"""Which words there are. Freely, letters that are no word of the language cost a hypothesis something.

A network that has heard a word a few times writes what it hears, "greating"; a list of words knows that no word goes
on like that. The cost is finite, so a name that is in no list can still be written. The idea is the lexicon of
classical decoders (Ortmanns and Ney 2000), as soft as shallow fusion with a language model is.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechformer.errors import CheckpointError
from speechformer.tokenizer import ALPHABET, EOS, Tokenizer

START = "▁"  # of a piece that begins a word
WRONG = re.compile(rf"[^{ALPHABET}\s]")
N_REMEMBERED = 8192  # beginnings of words


class Lexicon:
    """Words, as the model writes them, in alphabetical order."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.words = sorted(dict.fromkeys(words))  # fast where they are in order already

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        place = bisect_left(self.words, word)
        return place < len(self.words) and self.words[place] == word

    def has_beginning(self, letters: str) -> bool:
        """Tell whether any word begins so, or is that."""
        place = bisect_left(self.words, letters)
        return place < len(self.words) and self.words[place].startswith(letters)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Lexicon:
        """Load a file with a word a line; none is an empty lexicon. Raises CheckpointError for what is no such file."""
        try:
            text = Path(path).read_text("utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: is no list of words ({error}); copy the model again") from error
        if wrong := WRONG.search(text):
            word = next(word for word in text.split() if wrong[0] in word)
            raise CheckpointError(f'{path}: the model never writes "{word}"; write words of {ALPHABET}, one a line')
        return cls(text.split())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a word a line."""
        Path(path).write_text("".join(f"{word}\n" for word in self.words), "utf-8")


class TokenLexicon:
    """A lexicon in a tokenizer's pieces: which pieces after others make letters that are no word."""

    def __init__(self, lexicon: Lexicon, tokenizer: Tokenizer) -> None:
        self.lexicon = lexicon
        self.pieces = tokenizer.pieces(range(len(tokenizer)))
        self.ends_V = np.array([piece.startswith(START) for piece in self.pieces])
        self.ends_V[EOS] = True
        self._unknown_after = lru_cache(N_REMEMBERED)(self._find_unknown_after)

    def unknown(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        """Return `unknown_V`, True where a next token makes the last word an unknown one: a piece, or its end.

        None if no token does, nor where the word is unknown already: it counts once.
        """
        letters: list[str] = []
        for token in reversed(tokens):
            letters.append(self.pieces[token])
            if letters[-1].startswith(START):
                break
        return self._unknown_after("".join(reversed(letters)).removeprefix(START))

    def _find_unknown_after(self, letters: str) -> npt.NDArray[np.bool_] | None:
        if not letters or not self.lexicon.has_beginning(letters):
            return None
        ends_wrong = letters not in self.lexicon
        unknown_V = np.array(
            [
                ends_wrong if ends else not self.lexicon.has_beginning(letters + piece)
                for piece, ends in zip(self.pieces, self.ends_V, strict=True)
            ]
        )
        return unknown_V if unknown_V.any() else None
