"""What the CTC head alone says: its best path, and the probability of every sentence that begins with some tokens.

Suffixes: B utterances, A utterances that are not finished, W hypotheses of each side by side, V vocabulary, U tokens of
it, M encoder positions, N = M + 1 places before, between and after them, R of them all together.
"""

from __future__ import annotations

import itertools

import numpy as np

from speechformer.decoding import NEVER, Doubles, Floats, Ints
from speechformer.tokenizer import BOS, UNK
from speechformer.tokenizer import PAD as BLANK

IMPOSSIBLE, SURE = -1e4, -1e-4  # nats a position


def ctc_greedy(ctc_log_probs_BMV: Floats, lengths_B: Ints) -> list[list[int]]:
    """Return each utterance's best CTC path with repeats and blanks taken out (Graves et al. 2006, section 3.2)."""
    paths = (path_M[:length] for path_M, length in zip(ctc_log_probs_BMV.argmax(-1), lengths_B, strict=True))
    return [[token for token, _ in itertools.groupby(path_M.tolist()) if token > UNK] for path_M in paths]


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
