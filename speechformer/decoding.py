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
from functools import cached_property
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from speechformer.errors import ConfigError
from speechformer.tokenizer import BOS, EOS, UNK
from speechformer.tokenizer import PAD as BLANK

NEVER = -1e30
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

    Forward variables end in a token (`token_AWM`) or a blank (`blank_AWM`) at each position. Their recursion
    r_t = p_t · (r_{t−1} + a_t) is solved for all positions at once: divided by the running product of p it is
    a running sum, of logarithms here. A next token, unless it repeats the last one, is entered with the same a_t
    whatever it is, so the sums for the whole vocabulary are one matrix product.
    """

    def __init__(self, log_probs_AMV: Floats, lengths_A: Ints, n_hypotheses: int = 1) -> None:
        log_probs = log_probs_AMV.astype(np.float32)  # a copy; sums that run over time are in double precision
        n_utterances, n_positions, _ = log_probs.shape
        # After an utterance's end the blank is certain: the end then stands for every later position.
        beyond_AM = np.arange(n_positions) >= lengths_A[:, None]
        log_probs[beyond_AM] = NEVER
        log_probs[beyond_AM, BLANK] = 0.0
        self.log_probs_AVM = np.ascontiguousarray(log_probs.swapaxes(1, 2))
        self.probs_AMV = np.exp(log_probs)
        self.blank_AWM = np.repeat(log_probs[:, None, :, BLANK].cumsum(-1, dtype=np.float64), n_hypotheses, 1)
        self.token_AWM = np.full_like(self.blank_AWM, NEVER)
        self.last_AW = np.full((n_utterances, n_hypotheses), BOS)

    def ending(self) -> Doubles:
        """Return the log probability of each hypothesis as a whole sentence, `ending_AW`."""
        ending_AW: Doubles = np.logaddexp(self.token_AWM[..., -1], self.blank_AWM[..., -1])
        return ending_AW

    @cached_property
    def entries(self) -> tuple[Doubles, Doubles]:
        """What a next token is entered with at each position: any other token, and the last one again."""
        start_AW1 = np.where(self.last_AW == BOS, 0.0, NEVER)[..., None]
        other_AWM = _either(self.token_AWM, self.blank_AWM)[..., :-1]
        # A token after itself needs a blank between.
        return np.concatenate((start_AW1, other_AWM), -1), np.concatenate((start_AW1, self.blank_AWM[..., :-1]), -1)

    def emissions(self, tokens_AW: Ints) -> Doubles:
        """Return the log probability of a token at each position, `emissions_AWM`."""
        return self.log_probs_AVM[np.arange(len(tokens_AW))[:, None], tokens_AW].astype(np.float64)

    def extensions(self) -> Doubles:
        """Return `prefix_AWV` of each hypothesis with each next token."""
        other_AWM, again_AWM = self.entries
        highest_AW1 = other_AWM.max(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            # In single precision what is e⁻¹⁰³ times as likely as the best entry is impossible; no head is so sure.
            sums_AWV = np.exp(other_AWM - highest_AW1).astype(np.float32) @ self.probs_AMV
            prefix_AWV = np.log(sums_AWV, dtype=np.float64)
        prefix_AWV = np.maximum(prefix_AWV + highest_AW1, NEVER)
        again_AWM = again_AWM + self.emissions(self.last_AW)
        highest_AW1 = again_AWM.max(-1, keepdims=True)
        again_AW = highest_AW1[..., 0] + np.log(np.exp(again_AWM - highest_AW1).sum(-1))
        rows_A1, columns_W = np.arange(prefix_AWV.shape[0])[:, None], np.arange(prefix_AWV.shape[1])
        prefix_AWV[rows_A1, columns_W, self.last_AW] = again_AW
        return prefix_AWV

    def advance(self, kept_A: Ints, parents_AW: Ints, tokens_AW: Ints) -> CtcPrefix:
        """Return the state of chosen utterances' chosen hypotheses, each with a token added."""
        new = object.__new__(CtcPrefix)
        new.log_probs_AVM, new.probs_AMV, new.last_AW = self.log_probs_AVM, self.probs_AMV, tokens_AW
        if len(kept_A) < len(self.last_AW):
            new.log_probs_AVM, new.probs_AMV = self.log_probs_AVM[kept_A], self.probs_AMV[kept_A]
        chosen = kept_A[:, None], parents_AW
        other_AWM, again_AWM = self.entries
        repeats_AW1 = (tokens_AW == self.last_AW[chosen])[..., None]
        enter_AWM = np.where(repeats_AW1, again_AWM[chosen], other_AWM[chosen])
        new.token_AWM = _accumulate(enter_AWM, new.emissions(tokens_AW))
        entered_AWM = np.concatenate((np.full_like(new.token_AWM[..., :1], NEVER), new.token_AWM[..., :-1]), -1)
        new.blank_AWM = _accumulate(entered_AWM, new.log_probs_AVM[:, None, BLANK].astype(np.float64))
        return new


def _either(first: Doubles, second: Doubles) -> Doubles:
    """Return log(exp first + exp second); numpy's own goes number by number and takes twice as long."""
    either: Doubles = np.maximum(first, second) + np.log1p(np.exp(-np.abs(first - second)))
    return either


def _accumulate(enter: Doubles, emit: Doubles) -> Doubles:
    """Solve r_t = emit_t + log(exp r_{t−1} + exp enter_t) along the last dimension, r before the first being 0."""
    running = np.maximum(emit, -1e4).cumsum(-1)
    before = np.concatenate((np.zeros_like(running[..., :1]), running[..., :-1]), -1)
    solved: Doubles = np.maximum(running + np.logaddexp.accumulate(enter - before, -1), NEVER)
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


@dataclass(frozen=True)
class Task:
    """One of the searches that are made side by side over the same sound."""

    config: DecodingConfig
    constraint: Constraint | None = None
    spelling: Spelling | None = None


def search(
    recogniser: Recogniser, memory: Memory, config: DecodingConfig, constraint: Constraint | None = None
) -> list[list[Hypothesis]]:
    """Beam search in what was heard, all utterances and hypotheses in one grid."""
    return search_together(recogniser, memory, [Task(config, constraint)])[0]


def score_texts(
    recogniser: Recogniser, memory: Memory, config: DecodingConfig, texts: Sequence[Sequence[tuple[int, ...]]]
) -> list[dict[tuple[int, ...], Hypothesis]]:
    """Return of each utterance's texts, at least one, the hypotheses that `search` would make of them.

    All tokens are read at once. What an utterance has no room for has no hypothesis.
    """
    n_texts, weight = max(map(len, texts)), config.ctc_weight
    filled = [one for some in texts for one in (*some, *[some[0]] * (n_texts - len(some)))]
    tokens_RL = lay_out([(*one, EOS) for one in filled])
    rows = np.repeat(np.arange(len(texts)), n_texts)
    log_probs_RLV, _ = recogniser.read(tokens_RL[:, :-1], memory.cache.select(rows))
    next_RL1 = tokens_RL[:, 1:, None]
    attention_RL = np.take_along_axis(log_probs_RLV, next_RL1, -1)[..., 0].cumsum(1, dtype=np.float64)
    ctc_RL = np.zeros_like(attention_RL)
    if weight:
        prefixes = _ctc_prefixes(memory, next_RL1.reshape(len(texts), n_texts, -1))
        ctc_RL = prefixes.reshape(attention_RL.shape)
    scored: list[dict[tuple[int, ...], Hypothesis]] = [{} for _ in texts]
    for row, text, attention_L, ctc_L in zip(rows.tolist(), filled, attention_RL, ctc_RL, strict=True):
        end = len(text)
        if ctc_L[end] > NEVER / 10 and end <= memory.lengths_B[row]:
            joint_L = (1 - weight) * attention_L[: end + 1] + weight * ctc_L[: end + 1]
            scored[row][text] = Hypothesis(
                text, float(joint_L[end]), tuple(np.diff(joint_L, prepend=0.0).tolist()),
                float(attention_L[end]), float(ctc_L[end]), config.token_reward * end,
            )  # fmt: skip
    return scored


def _ctc_prefixes(memory: Memory, next_AWL: Ints) -> Doubles:
    """Return the log probability of every sentence that begins with so many tokens of a text, `prefixes_AWL`."""
    n_utterances, n_texts, n_tokens = next_AWL.shape
    state = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B, n_texts)
    all_A, all_AW = np.arange(n_utterances), np.tile(np.arange(n_texts), (n_utterances, 1))
    prefixes_AWL = np.empty(next_AWL.shape)
    for place in range(n_tokens):
        if place:
            state = state.advance(all_A, all_AW, next_AWL[..., place - 1])
        prefix_AWV, next_AW = state.extensions(), next_AWL[..., place]
        prefix_AWV[..., EOS] = state.ending()
        prefixes_AWL[..., place] = np.take_along_axis(prefix_AWV, next_AW[..., None], -1)[..., 0]
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


def search_together(recogniser: Recogniser, memory: Memory, tasks: Sequence[Task]) -> list[list[list[Hypothesis]]]:
    """Make several searches in the steps of one: for each task what `search` returns."""
    return _Search(recogniser, memory, tasks).run()


@dataclass
class _Lane:
    """One task within a batch's search: `width` columns of the grid, and what is found so far."""

    config: DecodingConfig
    constraint: Constraint | None
    spelling: Spelling | None
    width: int
    beams: list[list[Hypothesis]]  # of each utterance that is not finished, best first, at most `width`
    states: list[list[int]]  # the constraint's, of each of them
    finished: list[list[Hypothesis]]  # of each utterance of the batch


class _Grown(NamedTuple):
    """A hypothesis that goes on: the column of its parent within the lane, its last token, itself."""

    parent: int
    token: int
    hypothesis: Hypothesis


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
    """The same for one hypothesis an utterance: what the CTC head wrote is read in one go, the rest token by token.

    Most of the time both write the same, and many tokens at once are read in less time ("speculative decoding",
    Leviathan et al. 2023; the CTC head's best path is the draft). What is found is what `_Reading` finds.
    """

    def __init__(self, recogniser: Recogniser, memory: Memory) -> None:
        self.recogniser, self.n_read = recogniser, 0
        self.n_positions = memory.ctc_log_probs_BMV.shape[1]
        self.draft_BL = lay_out(ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B))
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
        self.utterances_A = self.utterances_A[kept_A]
        rows = np.flatnonzero(np.isin(self.own_utterances, self.utterances_A))
        if len(rows) < len(self.own_utterances):
            self.own, self.own_utterances = self.own.select(rows, rows), self.own_utterances[rows]


class _Search:
    """The state of one batch's beam search: a grid of utterances by hypotheses, which finished ones leave."""

    def __init__(self, recogniser: Recogniser, memory: Memory, tasks: Sequence[Task]) -> None:
        self.lengths: list[int] = memory.lengths_B.tolist()
        self.utterances = list(range(len(self.lengths)))
        self.n_tokens = 0
        self.lanes = [
            _Lane(
                task.config, task.constraint, task.spelling if task.config.unknown_word else None, 1,
                [[Hypothesis((), 0.0, ())] for _ in self.utterances],
                [[0] for _ in self.utterances],
                [[] for _ in self.utterances],
            )
            for task in tasks
        ]  # fmt: skip
        greedy = len(tasks) == 1 and tasks[0].config.beam == 1 and any(self.lengths)
        self.reading = (_DraftedReading if greedy else _Reading)(recogniser, memory)
        self.ctc: CtcPrefix | None = None
        if max(self.lengths, default=0) and any(task.config.ctc_weight for task in tasks):
            self.ctc = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B, len(tasks))
        best_path_AM = memory.ctc_log_probs_BMV.max(-1)
        is_real_AM = np.arange(best_path_AM.shape[1]) < memory.lengths_B[:, None]
        self.best_path_A = (best_path_AM * is_real_AM).sum(1).tolist()
        self.n_heard = [0] * len(self.lengths)
        if any(task.config.token_reward for task in tasks):
            self.n_heard = [len(text) for text in ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B)]
        self.last_AW: Ints = np.full((len(self.lengths), len(tasks)), BOS)
        self.attention_AW: Doubles = np.zeros(self.last_AW.shape)
        tokens_V = np.arange(memory.ctc_log_probs_BMV.shape[-1])
        self.is_word_V, self.is_end_V = ~np.isin(tokens_V, (BLANK, BOS, UNK)), tokens_V == EOS

    def run(self) -> list[list[list[Hypothesis]]]:
        if max(self.lengths, default=0):
            while self.utterances:
                self._step()
        return [[self._best(lane, i) for i in range(len(self.lengths))] for lane in self.lanes]

    def _best(self, lane: _Lane, utterance: int) -> list[Hypothesis]:
        done = lane.finished[utterance] if self.lengths[utterance] else []
        best = sorted(done, key=lambda one: -one.score)[: lane.config.n_best]
        return best or ([Hypothesis((), 0.0, ())] if lane.constraint is None else [])

    def _step(self) -> None:
        log_probs_RV = self.reading.read(self.last_AW)
        log_probs_AWV = log_probs_RV.astype(np.float64).reshape(*self.last_AW.shape, -1)
        attention_AWV = log_probs_AWV + self.attention_AW[..., None]
        prefix_AWV = np.zeros_like(attention_AWV)
        if self.ctc is not None:
            prefix_AWV = self.ctc.extensions()
            prefix_AWV[..., EOS] = self.ctc.ending()
        grown, first = [], 0
        for lane in self.lanes:
            columns = slice(first, first + lane.width)
            grown.append(self._grow(lane, attention_AWV[:, columns], prefix_AWV[:, columns]))
            first += lane.width
        self._advance(grown)

    def _grow(self, lane: _Lane, attention_AWV: Doubles, prefix_AWV: Doubles) -> list[list[_Grown]]:
        """Return each utterance's best hypotheses with one more token; put those that end among the finished."""
        if not lane.width:
            return [[] for _ in self.utterances]
        if lane.spelling is not None:
            attention_AWV = attention_AWV - self._cost_of_words(lane, lane.spelling)
        weight, score_AWV, allowed_AWV = lane.config.ctc_weight, attention_AWV, self._allowed(lane)
        if weight:
            score_AWV = (1 - weight) * attention_AWV + weight * prefix_AWV
            allowed_AWV = allowed_AWV & (prefix_AWV > NEVER / 10)
            if lane.config.ctc_slack is not None:
                allowed_AWV = self._near(lane, allowed_AWV, prefix_AWV, lane.config.ctc_slack)
        reward = lane.config.token_reward
        rank_AWV = np.where(allowed_AWV, score_AWV, NEVER)
        rank_AWV[..., EOS] -= reward  # all that go on have one token more than those that end here
        ranks = rank_AWV.reshape(len(self.utterances), -1)
        n_vocab, best = score_AWV.shape[-1], _highest(ranks, lane.config.beam)
        parts = (part.reshape(ranks.shape) for part in (ranks, score_AWV, attention_AWV, prefix_AWV))
        chosen = np.arange(len(ranks))[:, None], best
        numbers = np.stack([part[chosen] for part in parts], -1).tolist()
        grown: list[list[_Grown]] = []
        threshold = math.inf if lane.config.beam_threshold is None else lane.config.beam_threshold
        for place, indices in enumerate(best.tolist()):
            utterance = self.utterances[place]
            finished, going = lane.finished[utterance], []
            lowest = max(NEVER / 10, numbers[place][0][0] - threshold)
            for (rank, log_probability, attention, ctc), index in zip(numbers[place], indices, strict=True):
                if rank <= lowest:
                    break
                parent, token = divmod(index, n_vocab)
                old = lane.beams[place][parent]
                tokens = old.tokens if token == EOS else (*old.tokens, token)
                shares = (*old.token_log_probabilities, log_probability - old.log_probability)
                earned = reward * len(tokens)
                new = Hypothesis(tokens, log_probability, shares, attention, ctc if weight else 0.0, earned)
                if token == EOS:
                    finished.append(new)
                else:
                    going.append(_Grown(parent, token, new))
            # Probabilities only fall, so a hypothesis below the worst one that is wanted can no longer win, whatever
            # the tokens earn that may be to come.
            done = sorted((one.score for one in finished), reverse=True)
            bar = done[lane.config.n_best - 1] if len(done) >= lane.config.n_best else -math.inf
            bar -= reward * max(0, self.n_heard[utterance] + UNHEARD - self.n_tokens - 1)
            grown.append([one for one in going if one.hypothesis.score > bar])
        return grown

    def _cost_of_words(self, lane: _Lane, spelling: Spelling) -> Floats:
        """Return what each next token costs because of the word that it makes, `cost_AWV`."""
        cost_AWV = np.zeros((len(lane.beams), lane.width, len(self.is_word_V)), np.float32)
        for cost_WV, beams in zip(cost_AWV, lane.beams, strict=True):
            for cost_V, one in zip(cost_WV, beams, strict=False):
                unknown_V = spelling.unknown(one.tokens)
                if unknown_V is not None:
                    cost_V[unknown_V] = lane.config.unknown_word
        return cost_AWV

    def _near(self, lane: _Lane, allowed_AWV: Bools, prefix_AWV: Doubles, slack: float) -> Bools:
        """Return which tokens may follow that do not leave the sound behind; all, where something must be written."""
        floors = [self.best_path_A[one] - SLACK - slack * self.lengths[one] for one in self.utterances]
        near_AWV = allowed_AWV & (prefix_AWV >= np.array(floors)[:, None, None])
        written_A = [
            any(text.ctc >= floor for text in lane.finished[one])
            for one, floor in zip(self.utterances, floors, strict=True)
        ]
        is_done_A11 = near_AWV.any((1, 2), keepdims=True) | np.array(written_A)[:, None, None]
        return np.where(is_done_A11, near_AWV, allowed_AWV)

    def _allowed(self, lane: _Lane) -> Bools:
        """Return which tokens may follow, `allowed_AWV`: none where an utterance has no such hypothesis (any more)."""
        if lane.constraint is None and all(len(states) == lane.width for states in lane.states):
            ended_A11 = np.array([self.n_tokens == self.lengths[one] for one in self.utterances])[:, None, None]
            return np.where(ended_A11, self.is_end_V, self.is_word_V)
        nothing_V, rows = np.zeros_like(self.is_word_V), []
        for utterance, states in zip(self.utterances, lane.states, strict=True):
            # No sentence has more tokens than the sound has positions: all that can follow is the end.
            may_V = self.is_end_V if self.n_tokens == self.lengths[utterance] else self.is_word_V
            if lane.constraint is None:
                rows += [may_V] * len(states)
            else:
                rows += [lane.constraint.allowed(state) & may_V for state in states]
            rows += [nothing_V] * (lane.width - len(states))
        return np.stack(rows).reshape(-1, lane.width, len(nothing_V))

    def _advance(self, grown: Sequence[Sequence[Sequence[_Grown]]]) -> None:
        """Go on with what has grown: the utterances and columns that have nothing more to say leave the grid."""
        kept = [place for place in range(len(self.utterances)) if any(lane[place] for lane in grown)]
        columns: list[list[tuple[int, int, float]]] = [[] for _ in kept]
        first = 0
        for lane, beams in zip(self.lanes, grown, strict=True):
            before, old_states = lane.width, lane.states
            lane.width = max((len(beams[place]) for place in kept), default=0)
            lane.beams = [[one.hypothesis for one in beams[place]] for place in kept]
            lane.states = [[0] * len(beams[place]) for place in kept]
            for row, place in enumerate(kept):
                beam = beams[place]
                if lane.constraint is not None:
                    follow, states = lane.constraint.next, old_states[place]
                    lane.states[row] = [follow(states[one.parent], one.token) for one in beam]
                columns[row] += [(first + one.parent, one.token, one.hypothesis.attention) for one in beam]
                columns[row] += [(0, BOS, 0.0)] * (lane.width - len(beam))
            first += before
        self.utterances = [self.utterances[place] for place in kept]
        self.n_tokens += 1
        if kept:
            self._select(kept, columns, first)

    def _select(self, kept: list[int], columns: list[list[tuple[int, int, float]]], width: int) -> None:
        kept_A = np.array(kept)
        parents, tokens, attention = ([[one[i] for one in row] for row in columns] for i in range(3))
        parents_AW, self.last_AW, self.attention_AW = np.array(parents), np.array(tokens), np.array(attention)
        self.reading.select(kept_A, parents_AW, width)
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
