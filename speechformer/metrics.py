"""How wrong a transcript is: word and character errors, whole sentences, and how sure the figure is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np


@dataclass(frozen=True)
class Errors:
    """Error counts of one utterance against its reference, in words and characters."""

    words: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int
    character_errors: int

    @property
    def word_errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Score:
    """Rates over a set of utterances: `wer`, `cer` and `sentence_accuracy` are shares, not percent.

    `wer_low` and `wer_high` bound the word error rate with 95 % confidence.
    """

    n_utterances: int
    n_words: int
    wer: float
    cer: float
    sentence_accuracy: float
    wer_low: float
    wer_high: float


def count_errors(reference: str, hypothesis: str) -> Errors:
    """Align two texts with the fewest errors; an empty reference makes every word of the hypothesis an insertion."""
    if not reference.strip():
        return Errors(0, 0, 0, len(hypothesis.split()), 0, len(hypothesis))
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    n_characters = characters.hits + characters.substitutions + characters.deletions
    character_errors = characters.substitutions + characters.deletions + characters.insertions
    n_words = words.hits + words.substitutions + words.deletions
    return Errors(n_words, words.substitutions, words.deletions, words.insertions, n_characters, character_errors)


def score(references: Sequence[str], hypotheses: Sequence[str], seed: int = 0) -> Score:
    """Score hypotheses against references of the same length and order.

    The interval is the 2.5th to 97.5th percentile of 1,000 bootstrap samples of utterances
    (Bisani and Ney 2004).
    """
    errors = [count_errors(*pair) for pair in zip(references, hypotheses, strict=True)]
    counts = np.array([(one.word_errors, one.words, one.character_errors, one.characters) for one in errors])
    word_errors, words, character_errors, characters = counts.sum(axis=0)
    low, high = _bootstrap(counts[:, :2], seed)
    return Score(
        n_utterances=len(errors),
        n_words=int(words),
        wer=float(word_errors / max(1, words)),
        cer=float(character_errors / max(1, characters)),
        sentence_accuracy=float(np.mean([one.word_errors == 0 for one in errors])),
        wer_low=low,
        wer_high=high,
    )


def _bootstrap(counts: np.ndarray[tuple[int, int], np.dtype[np.int64]], seed: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    sums = np.array([counts[draw.integers(len(counts), size=len(counts))].sum(axis=0) for _ in range(1000)])
    low, high = np.percentile(sums[:, 0] / np.maximum(1, sums[:, 1]), [2.5, 97.5])
    return float(low), float(high)
