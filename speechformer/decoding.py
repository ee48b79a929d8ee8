"""Find the token sequence that decoder and CTC head together hold most likely.

A hypothesis scores (1 − w) · log p_attention + w · log p_CTC (Watanabe et al. 2017, equations 9–15), where
p_CTC of an unfinished hypothesis is the probability of every sentence that begins with it. Greedy decoding
is a beam of one. A `Constraint`, such as the automaton of a grammar, says which tokens may come next; the search
is the same. Nothing here knows of audio or text, nor what library computes the network: a `Recogniser` does.

Suffixes: B utterances, T frames, C features, A utterances that are not finished, W hypotheses of each side by side,
R rows (A × W), V vocabulary, M encoder positions, L tokens, H heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from speechformer.errors import ConfigError
from speechformer.tokenizer import BOS, EOS, UNK
from speechformer.tokenizer import PAD as BLANK

NEVER = -1e30
IMPOSSIBLE, SURE = -1e4, -1e-4  # nats a position
SLACK = 10.0  # nats, of an utterance of any length
UNHEARD = 4  # tokens more than the CTC head's best path has are looked out for, where they earn something

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
    beam costs no more than a narrow one (Lowerre 1976, "The Harpy speech recognition system").

    With `ctc_slack`, what is to the CTC head less probable than its best path by more than so many nats a position,
    and `SLACK` more, is ruled out while there is anything else: a decoder that goes round in a circle leaves the sound
    behind. Where the CTC head has no weight, neither has this. A word that is in no lexicon costs `unknown_word` nats
    of what the decoder says, where the task has a lexicon. Each token earns `token_reward` nats where texts of
    different lengths are compared (as words do in Hannun et al. 2014, "Deep Speech", section 2.2): what is hard to hear
    is less probable than nothing at all, and a command would end before it does.
    """

    beam: int = 1
    ctc_weight: float = 0.3
    n_best: int = 1
    ctc_slack: float | None = None
    unknown_word: float = 0.0
    token_reward: float = 0.0
    beam_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.beam < 1 or self.n_best < 1:
            raise ConfigError("decoding.beam and decoding.n_best are 1 or more")
        if not 0 <= self.ctc_weight <= 1:
            raise ConfigError(f"decoding.ctc_weight is between 0 and 1, not {self.ctc_weight}")
        if self.unknown_word < 0:
            raise ConfigError(f"decoding.unknown_word is a cost, 0 or more nats, not {self.unknown_word}")
        if self.token_reward < 0:
            raise ConfigError(f"decoding.token_reward is 0 or more nats, not {self.token_reward}")
        if self.beam_threshold is not None and self.beam_threshold <= 0:
            raise ConfigError(f"decoding.beam_threshold is more than 0 nats, not {self.beam_threshold}")


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


class CtcPrefix:
    """Log probability, by the CTC head, of every sentence that begins with a hypothesis and a next token.

    Forward variables end in a token (`token`) or a blank at each position, and before the first one (N = M + 1 places);
    `either_AWN` are both together. Their recursion r_t = p_t · (r_{t−1} + a_t) is solved for all positions at once:
    divided by the running product of p it is a running sum, of logarithms here. A next token, unless it repeats the
    last one, is entered with the same a_t whatever it is, so the sums for many tokens are one matrix product.
    """

    def __init__(self, log_probs_AMV: Floats, lengths_A: Ints, n_hypotheses: int = 1) -> None:
        log_probs, lengths_A = _without_sure_blanks(log_probs_AMV, lengths_A)
        n_utterances, n_positions, _ = log_probs.shape
        # After an utterance's end the blank is certain: the end then stands for every later position.
        beyond_AM = np.arange(n_positions) >= lengths_A[:, None]
        log_probs[beyond_AM] = NEVER
        log_probs[beyond_AM, BLANK] = 0.0
        self.probs_AMV = np.exp(log_probs)
        running_AVN = np.zeros((n_utterances, log_probs.shape[2], n_positions + 1))
        np.maximum(log_probs.swapaxes(1, 2), IMPOSSIBLE, out=running_AVN[..., 1:])
        self.running_AVN = running_AVN.cumsum(-1, out=running_AVN)  # log products of a token's probabilities
        self.blank_AWN = np.repeat(self.running_AVN[:, None, BLANK], n_hypotheses, 1)
        self.either_AWN = self.blank_AWN
        self.last_AW = np.full((n_utterances, n_hypotheses), BOS)

    def ending(self) -> Doubles:
        """Return the log probability of each hypothesis as a whole sentence, `ending_AW`."""
        ending_AW: Doubles = self.either_AWN[..., -1]
        return ending_AW

    def extensions(self, tokens_U: Ints) -> Doubles:
        """Return `prefix_AWU` of each hypothesis with each of these tokens next."""
        other_AWM = self.either_AWN[..., :-1]
        highest_AW1 = other_AWM.max(-1, keepdims=True)
        probs_AMU = self.probs_AMV if len(tokens_U) == self.probs_AMV.shape[-1] else self.probs_AMV[..., tokens_U]
        # In single precision what is e⁻¹⁰³ times as likely as the best entry is impossible; no head is so sure.
        sums_AWU = np.exp(other_AWM - highest_AW1).astype(np.float32) @ probs_AMU
        with np.errstate(divide="ignore"):
            prefix_AWU = np.log(sums_AWU, dtype=np.float64)
        prefix_AWU = np.maximum(prefix_AWU + highest_AW1, NEVER)
        again_A, again_W, again_U = np.nonzero(tokens_U == self.last_AW[..., None])
        if len(again_A):  # after itself a token needs a blank between
            running_RN = self.running_AVN[again_A, tokens_U[again_U]]
            emit_RM = np.diff(running_RN)
            prefix_AWU[again_A, again_W, again_U] = np.logaddexp.reduce(
                self.blank_AWN[again_A, again_W, :-1] + emit_RM, -1
            )
        return prefix_AWU

    def advance(self, kept_A: Ints, parents_AW: Ints, tokens_AW: Ints) -> CtcPrefix:
        """Return the state of chosen utterances' chosen hypotheses, each with a token added."""
        new = object.__new__(CtcPrefix)
        new.running_AVN, new.probs_AMV, new.last_AW = self.running_AVN, self.probs_AMV, tokens_AW
        if len(kept_A) < len(self.last_AW):
            new.running_AVN, new.probs_AMV = self.running_AVN[kept_A], self.probs_AMV[kept_A]
        chosen = kept_A[:, None], parents_AW
        enter_AWN, again_AW = self.either_AWN[chosen], tokens_AW == self.last_AW[chosen]
        if again_AW.any():
            enter_AWN[again_AW] = self.blank_AWN[chosen][again_AW]
        running_AWN = new.running_AVN[np.arange(len(kept_A))[:, None], tokens_AW]
        token_AWN = _accumulate(enter_AWN, running_AWN)
        new.blank_AWN = _accumulate(token_AWN, new.running_AVN[:, None, BLANK])
        new.either_AWN = _either(token_AWN, new.blank_AWN)
        return new


def _without_sure_blanks(log_probs_AMV: Floats, lengths_A: Ints) -> tuple[Floats, Ints]:
    """Leave out two of three positions where the blank is certain, and was before: they change nothing.

    The third is left so that there is room for what is not heard at all. Returns a copy, and how many positions of each
    utterance are left.
    """
    places_M = np.arange(log_probs_AMV.shape[1])
    sure_AM = log_probs_AMV[..., BLANK] > SURE
    since_AM = places_M - np.maximum.accumulate(np.where(sure_AM, -1, places_M), 1)  # the last one that was not
    kept_AM = (places_M < lengths_A[:, None]) & (~sure_AM | (since_AM % 3 == 1))
    n_kept_A = kept_AM.sum(1)
    order_AM = np.argsort(~kept_AM, 1, kind="stable")[:, : n_kept_A.max(initial=0)]
    return np.take_along_axis(log_probs_AMV.astype(np.float32), order_AM[..., None], 1), n_kept_A


def _either(first: Doubles, second: Doubles) -> Doubles:
    """Return log(exp first + exp second); numpy's own goes number by number and takes twice as long."""
    either: Doubles = np.maximum(first, second) + np.log1p(np.exp(-np.abs(first - second)))
    return either


def _accumulate(enter_AWN: Doubles, running_AWN: Doubles) -> Doubles:
    """Solve r_t = emit_t + log(exp r_{t−1} + exp enter_{t−1}) along the last dimension, r before the first being 0.

    `running` is the sum of emit up to t.
    """
    solved = np.full(np.broadcast_shapes(enter_AWN.shape, running_AWN.shape), NEVER)
    sums_AWM = np.logaddexp.accumulate((enter_AWN - running_AWN)[..., :-1], -1)
    np.maximum(running_AWN[..., 1:] + sums_AWM, NEVER, out=solved[..., 1:])
    return solved


def ctc_greedy(ctc_log_probs_BMV: Floats, lengths_B: Ints) -> list[list[int]]:
    """Return each utterance's best CTC path with repeats and blanks taken out (Graves et al. 2006, section 3.2)."""
    paths = (path_M[:length] for path_M, length in zip(ctc_log_probs_BMV.argmax(-1), lengths_B, strict=True))
    return [[token for token, _ in itertools.groupby(path_M.tolist()) if token > UNK] for path_M in paths]


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


def decode(
    recogniser: Recogniser,
    features_BTC: Floats,
    frames_B: Ints,
    config: DecodingConfig,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Transcribe a batch: up to `n_best` hypotheses an utterance, best first.

    Without a constraint, an utterance of no frames has one hypothesis, which is empty. Inside a constraint there
    are none where nothing that it allows fits into the utterance.
    """
    return search(recogniser, recogniser.listen(features_BTC, frames_B), config, constraint)


def search(
    recogniser: Recogniser,
    memory: Memory,
    config: DecodingConfig,
    constraint: Constraint | None = None,
    spelling: Spelling | None = None,
    drafts: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Beam search in what was heard, all utterances and hypotheses in one grid.

    Where the CTC head has all the weight, the decoder reads nothing. The nearer `drafts` are to what a greedy search
    finds, the fewer steps it takes (the CTC head's best paths, if None); they change nothing else.
    """
    return _Search(recogniser, memory, config, constraint, spelling, drafts).run()


def rescore(
    recogniser: Recogniser, memory: Memory, config: DecodingConfig, found: Sequence[Sequence[Hypothesis]]
) -> list[list[Hypothesis]]:
    """Give what the CTC head alone has found or scored the joint scores that `search` would give it, best first.

    The decoder reads all tokens of all texts at once.
    """
    n_texts = max(map(len, found), default=0)
    if not n_texts or config.ctc_weight == 1:
        return [_ranked(some, config) for some in found]
    filled = [text for some in found for text in (*(one.tokens for one in some), *[()] * (n_texts - len(some)))]
    tokens_RL = lay_out([(*text, EOS) for text in filled])
    cache = memory.cache.select(np.repeat(np.arange(len(found)), n_texts))
    log_probs_RLV, _ = recogniser.read(tokens_RL[:, :-1], cache)
    shares_RL1 = np.take_along_axis(log_probs_RLV, tokens_RL[:, 1:, None], -1).astype(np.float64)
    shares_BWL = shares_RL1.reshape(len(found), n_texts, -1)
    return [
        _ranked(
            [_joint(one, shares_L, config.ctc_weight) for one, shares_L in zip(some, shares_WL, strict=False)], config
        )
        for some, shares_WL in zip(found, shares_BWL, strict=True)
    ]


def _ranked(some: Sequence[Hypothesis], config: DecodingConfig) -> list[Hypothesis]:
    """Return hypotheses with what their tokens earn, best first."""
    earning = [one._replace(earned=config.token_reward * len(one.tokens)) for one in some]
    return sorted(earning, key=lambda one: -one.score)


def _joint(one: Hypothesis, attention_L: Doubles, weight: float) -> Hypothesis:
    """Return a hypothesis of the CTC head's with what the decoder says of each of its tokens, and of its end."""
    attention_L = attention_L[: len(one.tokens) + 1]
    shares_L = (1 - weight) * attention_L + weight * np.array(one.token_log_probabilities)
    return Hypothesis(
        one.tokens,
        float(shares_L.sum()),
        tuple(shares_L.tolist()),
        float(attention_L.sum()),
        one.ctc if weight else 0.0,
    )


def ctc_score(memory: Memory, texts: Sequence[Sequence[tuple[int, ...]]]) -> list[list[Hypothesis]]:
    """Return of each utterance's texts the hypotheses that a search by the CTC head alone would make of them.

    What an utterance has no room for has no hypothesis.
    """
    n_texts = max(map(len, texts), default=0)
    filled = [text for some in texts for text in (*some, *[()] * (n_texts - len(some)))]
    if not filled:
        return [[] for _ in texts]
    next_AWL = lay_out([(*text, EOS) for text in filled])[:, 1:].reshape(len(texts), n_texts, -1)
    prefixes_AWL = _ctc_prefixes(memory, next_AWL)
    return [
        [
            Hypothesis(
                text,
                float(prefix_L[len(text)]),
                tuple(np.diff(prefix_L[: len(text) + 1], prepend=0.0).tolist()),
                0.0,
                float(prefix_L[len(text)]),
            )
            for text, prefix_L in zip(some, prefixes_WL, strict=False)
            if prefix_L[len(text)] > NEVER / 10
        ]
        for some, prefixes_WL in zip(texts, prefixes_AWL, strict=True)
    ]


def _ctc_prefixes(memory: Memory, next_AWL: Ints) -> Doubles:
    """Return the log probability of every sentence that begins with so many tokens of a text, `prefixes_AWL`."""
    n_utterances, n_texts, n_tokens = next_AWL.shape
    state = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B, n_texts)
    all_A, all_AW = np.arange(n_utterances), np.tile(np.arange(n_texts), (n_utterances, 1))
    prefixes_AWL = np.empty(next_AWL.shape)
    for place in range(n_tokens):
        if place:
            state = state.advance(all_A, all_AW, next_AWL[..., place - 1])
        tokens_U, places_AW = np.unique(next_AWL[..., place], return_inverse=True)
        prefix_AWU = state.extensions(tokens_U)
        prefix_AWU[..., tokens_U == EOS] = state.ending()[..., None]
        places_AW1 = places_AW.reshape(n_utterances, n_texts, 1)
        prefixes_AWL[..., place] = np.take_along_axis(prefix_AWU, places_AW1, -1)[..., 0]
    return prefixes_AWL


def mean_hypothesis(hearings: Sequence[Hypothesis]) -> Hypothesis:
    """Return a text's hypothesis with the mean of the log probabilities that several hearings of a sound give it."""
    shares_NL = np.array([one.token_log_probabilities for one in hearings])
    heads_N2 = np.array([(one.attention, one.ctc) for one in hearings])
    attention, ctc = heads_N2.mean(0).tolist()
    shares = tuple(shares_NL.mean(0).tolist())
    return hearings[0]._replace(
        log_probability=sum(shares), token_log_probabilities=shares, attention=attention, ctc=ctc
    )


class _Reading:
    """What the decoder says of the hypotheses of a grid, one token after the other."""

    def __init__(self, recogniser: Recogniser, memory: Memory) -> None:
        self.recogniser, self.cache = recogniser, memory.cache

    def read(self, last_AW: Ints) -> Floats:
        """Read each hypothesis' last token: `log_probs_RV` of what follows."""
        log_probs_RLV, self.cache = self.recogniser.read(last_AW.reshape(-1, 1), self.cache)
        return log_probs_RLV[:, -1]

    def select(self, kept_A: Ints, parents_AW: Ints, width: int) -> None:
        """Go on with chosen utterances' chosen hypotheses, of so many side by side."""
        some_left = len(kept_A) < self.cache.n_utterances
        rows = (kept_A[:, None] * width + parents_AW).reshape(-1)
        self.cache = self.cache.select(rows, kept_A if some_left else None)


class _DraftedReading:
    """The same for one hypothesis an utterance: what a draft has is read in one go, the rest token by token.

    Most of the time both write the same, and many tokens at once are read in less time ("speculative decoding",
    Leviathan et al. 2023). What is found is what `_Reading` finds.
    """

    def __init__(self, recogniser: Recogniser, memory: Memory, drafts: Sequence[Sequence[int]] | None = None) -> None:
        self.recogniser, self.n_read = recogniser, 0
        self.n_positions = memory.ctc_log_probs_BMV.shape[1]
        self.draft_BL = lay_out(drafts or ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B))
        self.log_probs_BLV, self.drafted = recogniser.read(self.draft_BL, memory.cache)
        self.utterances_A = np.arange(len(self.draft_BL))
        self.follows_B = np.ones(len(self.draft_BL), bool)  # written so far is the draft
        self.own: Any = None  # the cache of those that write something else, whose utterances these are:
        self.own_utterances = self.utterances_A[:0]

    def read(self, last_AW: Ints) -> Floats:
        """Read each hypothesis' last token: `log_probs_RV` of what follows."""
        last_A, going_A, place = last_AW[:, 0], self.utterances_A, self.n_read
        drafted_A = self.draft_BL[going_A, place] if place < self.draft_BL.shape[1] else np.full_like(last_A, -1)
        leaving = going_A[self.follows_B[going_A] & (drafted_A != last_A)]
        if len(leaving):
            self._leave(leaving)
        log_probs_RV = self.log_probs_BLV[going_A, min(place, self.draft_BL.shape[1] - 1)]
        if len(self.own_utterances):
            rows = np.searchsorted(going_A, self.own_utterances)
            read_RLV, self.own = self.recogniser.read(last_A[rows, None], self.own)
            log_probs_RV[rows] = read_RLV[:, -1]
        self.n_read += 1
        return log_probs_RV

    def _leave(self, leaving: Ints) -> None:
        """Give utterances that no longer follow the draft a cache of their own, of what is behind them."""
        parts = [(self.drafted, leaving)]
        if self.own is not None:
            parts.append((self.own, np.arange(len(self.own_utterances))))
        self.own = type(self.drafted).join(parts, self.n_positions, self.n_read)
        self.own_utterances = np.concatenate((leaving, self.own_utterances))
        self.follows_B[leaving] = False

    def select(self, kept_A: Ints, _parents_AW: Ints, _width: int) -> None:
        """Go on with chosen utterances."""
        if len(kept_A) == len(self.utterances_A):
            return
        self.utterances_A = self.utterances_A[kept_A]
        rows = np.flatnonzero(np.isin(self.own_utterances, self.utterances_A))
        if len(rows) < len(self.own_utterances):
            self.own, self.own_utterances = self.own.select(rows, rows), self.own_utterances[rows]


class _Search:
    """The state of one batch's beam search: a grid of utterances by hypotheses, which finished ones leave.

    Rows of the grid have the hypotheses of an utterance, best first, and behind them, where others have more, nothing.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        memory: Memory,
        config: DecodingConfig,
        constraint: Constraint | None,
        spelling: Spelling | None,
        drafts: Sequence[Sequence[int]] | None,
    ) -> None:
        self.config, self.constraint = config, constraint
        self.spelling = spelling if config.unknown_word else None
        self.lengths: list[int] = memory.lengths_B.tolist()
        self.utterances = list(range(len(self.lengths)))
        self.finished: list[list[Hypothesis]] = [[] for _ in self.lengths]
        self.reading: _Reading | _DraftedReading | None = None
        if max(self.lengths, default=0) and config.ctc_weight < 1:
            self.reading = _Reading(recogniser, memory)
            if config.beam == 1:
                self.reading = _DraftedReading(recogniser, memory, drafts)
        self.ctc: CtcPrefix | None = None
        if max(self.lengths, default=0) and config.ctc_weight:
            self.ctc = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B)
        best_path_AM = memory.ctc_log_probs_BMV.max(-1)
        is_real_AM = np.arange(best_path_AM.shape[1]) < memory.lengths_B[:, None]
        self.best_path_A = (best_path_AM * is_real_AM).sum(1).tolist()
        self.n_heard = [0] * len(self.lengths)
        if config.token_reward:
            self.n_heard = [len(text) for text in ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B)]
        n_vocab, shape = memory.ctc_log_probs_BMV.shape[-1], (len(self.lengths), 1)
        tokens_V = np.arange(n_vocab)
        self.is_word_V, self.is_end_V = np.ones(n_vocab, np.bool_), tokens_V == EOS
        self.is_word_V[[BLANK, BOS, UNK]] = False
        self.nothing_V = np.zeros(n_vocab, np.bool_)
        self.is_real_AW = np.ones(shape, np.bool_)
        self.states_AW, self.last_AW = np.zeros(shape, np.int64), np.full(shape, BOS)
        self.score_AW, self.attention_AW = np.zeros(shape), np.zeros(shape)
        self.tokens_AWL, self.shares_AWL = np.zeros((*shape, 0), np.int64), np.zeros((*shape, 0))

    @property
    def n_tokens(self) -> int:
        """How many tokens the hypotheses have by now."""
        return self.tokens_AWL.shape[-1]

    def run(self) -> list[list[Hypothesis]]:
        if max(self.lengths, default=0):
            while self.utterances:
                self._step()
        return [self._best(i) for i in range(len(self.lengths))]

    def _best(self, utterance: int) -> list[Hypothesis]:
        done = self.finished[utterance] if self.lengths[utterance] else []
        best = sorted(done, key=lambda one: -one.score)[: self.config.n_best]
        return best or ([Hypothesis((), 0.0, ())] if self.constraint is None else [])

    def _step(self) -> None:
        """Let all hypotheses grow by the tokens that make the best ones; put those that end among the finished."""
        weight, reward = self.config.ctc_weight, self.config.token_reward
        allowed_AWV = self._allowed()
        tokens_U = np.arange(len(self.is_end_V))
        if self.constraint is not None:
            tokens_U = np.flatnonzero(allowed_AWV.any((0, 1)) | self.is_end_V)
        allowed_AWU, is_end_U = allowed_AWV[..., tokens_U], tokens_U == EOS
        score_AWU = attention_AWU = prefix_AWU = np.zeros(allowed_AWU.shape)
        if self.reading is not None:
            log_probs_RV = self.reading.read(self.last_AW)
            attention_AWU = self.attention_AW[..., None] + log_probs_RV[:, tokens_U].reshape(allowed_AWU.shape)
            if self.spelling is not None:
                attention_AWU -= self._cost_of_words(self.spelling)[..., tokens_U]
            score_AWU = attention_AWU
        if self.ctc is not None:
            prefix_AWU = self.ctc.extensions(tokens_U)
            prefix_AWU[..., is_end_U] = self.ctc.ending()[..., None]
            score_AWU = prefix_AWU if self.reading is None else (1 - weight) * attention_AWU + weight * prefix_AWU
            allowed_AWU &= prefix_AWU > NEVER / 10
            if self.config.ctc_slack is not None:
                allowed_AWU = self._near(allowed_AWU, prefix_AWU, self.config.ctc_slack)
        rank_AWU = np.where(allowed_AWU, score_AWU, NEVER)
        rank_AWU[..., is_end_U] -= reward  # all that go on have one token more than those that end here
        ranks = rank_AWU.reshape(len(self.utterances), -1)
        best = _highest(ranks, self.config.beam)
        rows = np.arange(len(ranks))[:, None]
        rank, score, attention, prefix = (
            part.reshape(ranks.shape)[rows, best] for part in (ranks, score_AWU, attention_AWU, prefix_AWU)
        )
        threshold = math.inf if self.config.beam_threshold is None else self.config.beam_threshold
        parents, columns = np.divmod(best, len(tokens_U))
        tokens = tokens_U[columns]
        shares = score - self.score_AW[rows, parents]
        good = rank > np.maximum(NEVER / 10, rank[:, :1] - threshold)
        ends, earned = tokens == EOS, reward * (self.n_tokens + 1)
        ending = good & ends
        ending &= ending.cumsum(1) <= self.config.n_best  # they are as long as each other: the best come first
        self._finish(ending, parents, score, shares, attention, prefix)
        # Probabilities only fall, so a hypothesis below the worst one that is wanted can no longer win, whatever
        # the tokens earn that may be to come.
        good &= ~ends & (score + earned > np.array([self._bar(one) for one in self.utterances])[:, None])
        self._advance(good, parents, tokens, score, shares, attention)

    def _finish(
        self, ends: Bools, parents: Ints, score: Doubles, shares: Doubles, attention: Doubles, prefix: Doubles
    ) -> None:
        """Put hypotheses that end among the finished."""
        for row, place in np.argwhere(ends).tolist():
            parent = parents[row, place]
            tokens = tuple(self.tokens_AWL[row, parent].tolist())
            earlier = self.shares_AWL[row, parent].tolist()
            self.finished[self.utterances[row]].append(
                Hypothesis(
                    tokens, float(score[row, place]), (*earlier, float(shares[row, place])),
                    float(attention[row, place]), float(prefix[row, place]), self.config.token_reward * len(tokens),
                )
            )  # fmt: skip

    def _bar(self, utterance: int) -> float:
        """Return the score under which no hypothesis of an utterance can win any more."""
        done = self.finished[utterance]
        if len(done) < self.config.n_best:
            return -math.inf
        worst = sorted((one.score for one in done), reverse=True)[self.config.n_best - 1]
        return worst - self.config.token_reward * max(0, self.n_heard[utterance] + UNHEARD - self.n_tokens - 1)

    def _cost_of_words(self, spelling: Spelling) -> Floats:
        """Return what each next token costs because of the word that it makes, `cost_AWV`."""
        cost_AWV = np.zeros((*self.last_AW.shape, len(self.is_word_V)), np.float32)
        for row, column in np.argwhere(self.is_real_AW).tolist():
            unknown_V = spelling.unknown(self.tokens_AWL[row, column].tolist())
            if unknown_V is not None:
                cost_AWV[row, column, unknown_V] = self.config.unknown_word
        return cost_AWV

    def _near(self, allowed_AWV: Bools, prefix_AWV: Doubles, slack: float) -> Bools:
        """Return which tokens may follow that do not leave the sound behind; all, where something must be written."""
        floors = [self.best_path_A[one] - SLACK - slack * self.lengths[one] for one in self.utterances]
        near_AWV = allowed_AWV & (prefix_AWV >= np.array(floors)[:, None, None])
        written_A = [
            any(text.ctc >= floor for text in self.finished[one])
            for one, floor in zip(self.utterances, floors, strict=True)
        ]
        is_done_A11 = near_AWV.any((1, 2), keepdims=True) | np.array(written_A)[:, None, None]
        return np.where(is_done_A11, near_AWV, allowed_AWV)

    def _allowed(self) -> Bools:
        """Return which tokens may follow, `allowed_AWV`: none where an utterance has no such hypothesis."""
        # No sentence has more tokens than the sound has positions: all that can follow is the end.
        ended_A11 = np.array([self.n_tokens == self.lengths[one] for one in self.utterances])[:, None, None]
        allowed_AWV = np.where(ended_A11, self.is_end_V, self.is_word_V) & self.is_real_AW[..., None]
        if self.constraint is not None:
            masks_RV = np.array([self.constraint.allowed(state) for state in self.states_AW.reshape(-1).tolist()])
            allowed_AWV &= masks_RV.reshape(allowed_AWV.shape)
        return allowed_AWV

    def _advance(
        self, good: Bools, parents: Ints, tokens: Ints, score: Doubles, shares: Doubles, attention: Doubles
    ) -> None:
        """Go on with what is good: the utterances and columns that have nothing more to say leave the grid."""
        kept_A = np.flatnonzero(good.any(1))
        self.utterances = [self.utterances[place] for place in kept_A.tolist()]
        if not len(kept_A):
            return
        width = int(good.sum(1).max())
        chosen = kept_A[:, None], np.argsort(~good[kept_A], 1, kind="stable")[:, :width]
        self.is_real_AW, parents_AW = good[chosen], parents[chosen]
        self.last_AW = np.where(self.is_real_AW, tokens[chosen], BOS)
        parents_AW = np.where(self.is_real_AW, parents_AW, 0)
        self.score_AW, self.attention_AW = score[chosen], attention[chosen]
        before, n_columns = (kept_A[:, None], parents_AW), self.tokens_AWL.shape[1]
        self.tokens_AWL = np.concatenate((self.tokens_AWL[before], self.last_AW[..., None]), -1)
        self.shares_AWL = np.concatenate((self.shares_AWL[before], shares[chosen][..., None]), -1)
        if self.constraint is not None:
            follow, states_AW = self.constraint.next, self.states_AW[before]
            self.states_AW = np.zeros_like(states_AW)
            pairs = zip(states_AW[self.is_real_AW].tolist(), self.last_AW[self.is_real_AW].tolist(), strict=True)
            self.states_AW[self.is_real_AW] = [follow(state, token) for state, token in pairs]
        else:
            self.states_AW = np.zeros_like(parents_AW)
        if self.reading is not None:
            self.reading.select(kept_A, parents_AW, n_columns)
        if self.ctc is not None:
            self.ctc = self.ctc.advance(kept_A, parents_AW, self.last_AW)


def _highest(scores: Doubles, n: int) -> Ints:
    """Return where in each row the `n` highest numbers are, the highest first."""
    n = min(n, scores.shape[1])
    if n == 1:
        return scores.argmax(1)[:, None]
    rows = np.arange(len(scores))[:, None]
    places = np.argpartition(-scores, n - 1, 1)[:, :n]
    return places[rows, np.argsort(-scores[rows, places], 1)]
