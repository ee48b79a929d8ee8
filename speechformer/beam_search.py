"""Find the token sequences that decoder and CTC head together hold most likely.

Greedy decoding is a beam of one. A `Constraint`, such as the automaton of a grammar, says which tokens may come next;
the search is the same.

Suffixes: B utterances, T frames, C features, A utterances that are not finished, W hypotheses of each side by side,
R rows (A × W), V vocabulary, U tokens of it, M encoder positions, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from speechformer.ctc import CtcPrefix, ctc_greedy
from speechformer.decoding import (
    NEVER,
    Bools,
    Constraint,
    DecodingConfig,
    Doubles,
    Floats,
    Hypothesis,
    Ints,
    Memory,
    Recogniser,
    Spelling,
    lay_out,
)
from speechformer.tokenizer import BOS, EOS, UNK
from speechformer.tokenizer import PAD as BLANK

SLACK = 10.0  # nats, of an utterance of any length
UNHEARD = 4  # tokens more than the CTC head's best path has are looked out for, where they earn something


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
            is_greedy = config.beam == 1
            self.reading = _DraftedReading(recogniser, memory, drafts) if is_greedy else _Reading(recogniser, memory)
        self.ctc: CtcPrefix | None = None
        if max(self.lengths, default=0) and config.ctc_weight:
            self.ctc = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B)
        if config.ctc_slack is not None:
            slacks = [SLACK + config.ctc_slack * length for length in self.lengths]
            self.floors = [memory.best_path(row) - slack for row, slack in enumerate(slacks)]
        self.n_heard = [0] * len(self.lengths)
        if config.token_reward:
            self.n_heard = [len(text) for text in ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B)]
        n_vocab, shape = memory.ctc_log_probs_BMV.shape[-1], (len(self.lengths), 1)
        tokens_V = np.arange(n_vocab)
        self.is_word_V, self.is_end_V = np.ones(n_vocab, np.bool_), tokens_V == EOS
        self.is_word_V[[BLANK, BOS, UNK]] = False
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
        allowed_AWU, is_end_U = self._columns(allowed_AWV, tokens_U), tokens_U == EOS
        attention_AWU, prefix_AWU = self._attention(tokens_U), self._prefixes(tokens_U)
        score_AWU = (1 - weight) * attention_AWU + weight * prefix_AWU
        if self.ctc is not None:
            allowed_AWU &= prefix_AWU > NEVER / 10
            if self.config.ctc_slack is not None:
                allowed_AWU = self._near(allowed_AWU, prefix_AWU)
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
        states = self._next_states(good, parents, tokens)
        if self.constraint is not None and self.config.per_state is not None:
            good &= _among_first(states, self.config.per_state)
        self._advance(good, parents, tokens, states, score, shares, attention)

    def _attention(self, tokens_U: Ints) -> Doubles:
        """Return what the decoder says of each hypothesis with each of these tokens next, `attention_AWU`."""
        if self.reading is None:
            return np.zeros((*self.last_AW.shape, len(tokens_U)))
        log_probs_RU = self._columns(self.reading.read(self.last_AW), tokens_U)
        attention_AWU = log_probs_RU.reshape(*self.last_AW.shape, -1) + self.attention_AW[..., None]
        if self.spelling is not None:
            attention_AWU -= self._columns(self._cost_of_words(self.spelling), tokens_U)
        return attention_AWU

    def _columns(self, values: npt.NDArray[Any], tokens_U: Ints) -> npt.NDArray[Any]:
        """Return the last dimension's numbers of some tokens, a view where these are all tokens."""
        return values if self.constraint is None else values[..., tokens_U]

    def _prefixes(self, tokens_U: Ints) -> Doubles:
        """Return what the CTC head says of that, `prefix_AWU`."""
        if self.ctc is None:
            return np.zeros((*self.last_AW.shape, len(tokens_U)))
        prefix_AWU = self.ctc.extensions(tokens_U)
        prefix_AWU[..., tokens_U == EOS] = self.ctc.ending()[..., None]
        return prefix_AWU

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

    def _near(self, allowed_AWV: Bools, prefix_AWV: Doubles) -> Bools:
        """Return which tokens may follow that do not leave the sound behind; all, where something must be written."""
        floors = [self.floors[one] for one in self.utterances]
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

    def _next_states(self, good: Bools, parents: Ints, tokens: Ints) -> Ints:
        """Return the constraint's state after each that is good, −1 everywhere else."""
        states = np.full_like(parents, -1)
        if self.constraint is not None:
            follow, rows = self.constraint.next, np.nonzero(good)[0]
            pairs = zip(self.states_AW[rows, parents[good]].tolist(), tokens[good].tolist(), strict=True)
            states[good] = [follow(state, token) for state, token in pairs]
        return states

    def _advance(
        self,
        good: Bools,
        parents: Ints,
        tokens: Ints,
        states: Ints,
        score: Doubles,
        shares: Doubles,
        attention: Doubles,
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
        self.states_AW = np.where(self.is_real_AW, states[chosen], 0)
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


def _among_first(states: Ints, n: int) -> Bools:
    """Return of each row's places whether fewer than `n` to its left have the same number."""
    order = np.argsort(states, 1, kind="stable")
    ordered, places = np.take_along_axis(states, order, 1), np.arange(states.shape[1])
    begins = np.diff(ordered, prepend=-2) != 0
    nth = places - np.maximum.accumulate(np.where(begins, places, 0), 1)
    among = np.empty(states.shape, np.bool_)
    np.put_along_axis(among, order, nth < n, 1)
    return among
