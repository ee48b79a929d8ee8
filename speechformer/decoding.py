"""What decoding is made of: what was heard, how to search in it, and the token sequences that are found.

A hypothesis scores (1 − w) · log p_attention + w · log p_CTC (Watanabe et al. 2017, equations 9–15), where
p_CTC of an unfinished hypothesis is the probability of every sentence that begins with it. `beam_search` finds the
best ones, `rescoring` scores what is given. Nothing there knows of audio or text, nor what library computes the
network: a `Recogniser` does.

Suffixes: B utterances, T frames, C features, R rows of hypotheses, V vocabulary, M encoder positions, L tokens,
H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from speechformer.config import check_within
from speechformer.tokenizer import BOS, EOS

NEVER = -1e30

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Cache(Protocol):
    """What a decoder need not compute twice, for a grid of utterances by hypotheses."""

    @property
    def n_utterances(self) -> int:
        """How many utterances are being decoded."""

    def select(self, rows: Ints, utterances: Ints | None = None) -> Self:
        """Return the cache of chosen hypotheses, repeated or reordered, and of chosen utterances (all, if None)."""

    @classmethod
    def join(cls, parts: Sequence[tuple[Self, Ints]], n_positions: int, n_tokens: int = 0) -> Self:
        """Return one cache of chosen utterances of several, one hypothesis each: of the first tokens that were read.

        `n_positions` of each utterance's memory are kept.
        """


@dataclass(frozen=True)
class Memory:
    """What was heard: `ctc_log_probs_BMV`, how many positions of each utterance are real, the decoder's beginning."""

    ctc_log_probs_BMV: Floats
    lengths_B: Ints
    cache: Any  # a Cache of the recogniser that heard it

    def ctc_log_probs(self, row: int) -> Floats:
        """Return `ctc_log_probs_MV` of the real positions of one utterance."""
        return self.ctc_log_probs_BMV[row, : self.lengths_B[row]]

    def sounds(self) -> Floats:
        """Return `sounds_BD`, the mean over each utterance's positions of what the decoder's first layer can read."""
        sounds_BD: Floats = self.cache.mean_values()
        return sounds_BD

    def best_path(self, row: int) -> float:
        """Return the log probability of what is to the CTC head the best path through one utterance."""
        return float(self.ctc_log_probs(row).max(1).sum())

    @classmethod
    def join(cls, parts: Sequence[tuple[Memory, Ints]]) -> Memory:
        """Return chosen utterances of several batches as one batch."""
        first, rows = parts[0]
        if len(parts) == 1 and np.array_equal(rows, np.arange(len(first.lengths_B))):
            return first
        lengths_B = np.concatenate([memory.lengths_B[rows] for memory, rows in parts])
        n_positions = int(lengths_B.max(initial=0))
        log_probs_BMV = stack_positions([(memory.ctc_log_probs_BMV, rows) for memory, rows in parts], 1, n_positions)
        cache = type(first.cache).join([(memory.cache, rows) for memory, rows in parts], n_positions)
        return cls(log_probs_BMV, lengths_B, cache)


def stack_positions(parts: Sequence[tuple[npt.NDArray[Any], Ints]], axis: int, n_positions: int) -> npt.NDArray[Any]:
    """Put chosen rows of batches under each other, each padded with zeros or cut to so many positions along an axis."""
    some, rows = parts[0]
    shape = list(some.shape)
    shape[0], shape[axis] = sum(len(rows) for _, rows in parts), n_positions
    whole = np.zeros(shape, some.dtype)
    places = iter(whole.swapaxes(1, axis))
    for part, rows in parts:
        size = min(n_positions, part.shape[axis])
        part = part.swapaxes(1, axis)
        for row in rows.tolist():  # one by one: copied once, not twice
            next(places)[:size] = part[row, :size]
    return whole


class Recogniser(Protocol):
    """A network that hears and writes, whatever library computes it."""

    def listen(self, features_BTC: Floats, frames_B: Ints) -> Memory:
        """Encode a batch; the decoder's cache has one hypothesis an utterance."""

    def read(self, tokens_RL: Ints, cache: Any) -> tuple[Floats, Any]:
        """Read more tokens of each hypothesis: `log_probs_RLV` of what follows each, and the grown cache."""

    def look(self, tokens_RL: Ints, cache: Any) -> Floats:
        """Return what each head of cross-attention looks at while such tokens are read, `looks_RLHM`."""


@dataclass(frozen=True)
class DecodingConfig:
    """How to search: `beam` hypotheses are kept an utterance, `ctc_weight` is w above, 0…1.

    With `beam_threshold`, only those less than so many nats behind the best one: where what was said is clear, a wide
    beam costs no more than a narrow one (Lowerre 1976, "The Harpy speech recognition system"). With `per_state`, only
    so many of those that are in one state of the constraint: what may follow is the same for all of them, so that who
    is behind hardly overtakes any more.

    With `ctc_slack`, what is to the CTC head less probable than its best path by more than so many nats a position,
    and `beam_search.SLACK` more, is ruled out while there is anything else: a decoder that goes round in a circle
    leaves the sound behind. Where the CTC head has no weight, neither has this. A word that is in no lexicon costs
    `unknown_word` nats of what the decoder says, where the task has a lexicon. Each token earns `token_reward` nats
    where texts of different lengths are compared (as words do in Hannun et al. 2014, "Deep Speech", section 2.2):
    what is hard to hear is less probable than nothing at all, and a command would end before it does.
    """

    beam: int = 1
    ctc_weight: float = 0.3
    n_best: int = 1
    ctc_slack: float | None = None
    unknown_word: float = 0.0
    token_reward: float = 0.0
    beam_threshold: float | None = None
    per_state: int | None = None

    def __post_init__(self) -> None:
        check_within(self, "decoding.", "beam n_best per_state", 1)
        check_within(self, "decoding.", "ctc_weight", 0, 1)
        check_within(self, "decoding.", "ctc_slack unknown_word token_reward", 0)
        check_within(self, "decoding.", "beam_threshold", 0, exclusive=True)


class Hypothesis(NamedTuple):
    """A sequence of token ids, without begin and end, with its joint log probability and its tokens' shares.

    `attention` and `ctc` are the log probabilities by the decoder and by the CTC head alone, of every sentence
    that begins so while the sequence is unfinished; `ctc` is 0 where the CTC head took no part, and `attention` is
    less what unknown words cost. `earned` is what its tokens have earned.
    """

    tokens: tuple[int, ...]
    log_probability: float
    token_log_probabilities: tuple[float, ...]
    attention: float = 0.0
    ctc: float = 0.0
    earned: float = 0.0

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return self.log_probability + self.earned


class Constraint(Protocol):
    """What may be written. States are numbers, 0 the begin."""

    def allowed(self, state: int) -> Bools:
        """Return `allowed_V`, True where a token may come next; EOS where the sequence may end."""

    def next(self, state: int, token: int) -> int:
        """Return the state after a token."""


class Spelling(Protocol):
    """Which words there are."""

    def unknown(self, tokens: Sequence[int]) -> Bools | None:
        """Return `unknown_V`, True where a next token makes an unknown word of the last one; None: nowhere."""


def lay_out(texts: Sequence[Sequence[int]]) -> Ints:
    """Return what a decoder reads that writes these texts, `tokens_RL`: begin and text, and ends as padding."""
    tokens_RL = np.full((len(texts), 1 + max(map(len, texts), default=0)), EOS)
    tokens_RL[:, 0] = BOS
    for row_L, text in zip(tokens_RL, texts, strict=True):
        row_L[1 : len(text) + 1] = text
    return tokens_RL


def cross_looks(recogniser: Recogniser, memory: Memory, texts: Sequence[Sequence[int]]) -> list[Floats]:
    """Return where cross-attention looks for each token of an utterance's text, `looks_LHM`; heads of all layers."""
    looks_RLHM = recogniser.look(lay_out(texts), memory.cache)
    return [looks_LHM[: len(text)] for looks_LHM, text in zip(looks_RLHM, texts, strict=True)]
