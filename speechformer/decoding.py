"""Find the token sequence that decoder and CTC head together hold most likely.

A hypothesis scores (1 − w) · log p_attention + w · log p_CTC (Watanabe et al. 2017, equations 9–15), where
p_CTC of an unfinished hypothesis is the probability of every sentence that begins with it. Greedy decoding
is a beam of one. A `Constraint`, such as the automaton of a grammar, says which tokens may come next; the search
is the same. Nothing here knows of audio or text.

Suffixes: R rows (utterance × hypothesis), A utterances that are not finished, W beam, V vocabulary,
M encoder positions, L tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from speechformer.errors import ConfigError
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import BOS, EOS, UNK
from speechformer.tokenizer import PAD as BLANK

NEVER = -1e30


@dataclass(frozen=True)
class DecodingConfig:
    """How to search: `beam` hypotheses are kept an utterance, `ctc_weight` is w above, 0…1."""

    beam: int = 1
    ctc_weight: float = 0.3
    n_best: int = 1

    def __post_init__(self) -> None:
        if self.beam < 1 or self.n_best < 1:
            raise ConfigError("decoding.beam and decoding.n_best are 1 or more")
        if not 0 <= self.ctc_weight <= 1:
            raise ConfigError(f"decoding.ctc_weight is between 0 and 1, not {self.ctc_weight}")


@dataclass(frozen=True)
class Hypothesis:
    """A sequence of token ids, without begin and end, with its joint log probability and its tokens' shares.

    `attention` and `ctc` are the log probabilities by the decoder and by the CTC head alone, of every sentence
    that begins so while the sequence is unfinished; `ctc` is 0 where the CTC head took no part.
    """

    tokens: tuple[int, ...]
    log_probability: float
    token_log_probabilities: tuple[float, ...]
    attention: float = 0.0
    ctc: float = 0.0


class Constraint(Protocol):
    """What may be written. States are numbers, 0 the begin."""

    def allowed(self, state: int) -> Tensor:
        """Return `allowed_V`, True where a token may come next; EOS where the sequence may end."""

    def next(self, state: int, token: int) -> int:
        """Return the state after a token."""


class CtcPrefix:
    """Log probability, by the CTC head, of every sentence that begins with a hypothesis and a next token.

    Forward variables end in a token (`token_RM`) or a blank (`blank_RM`) at each position. Their recursion
    r_t = p_t · (r_{t−1} + a_t) is solved for all positions at once: divided by the running product of p it is
    a running sum, so one `logcumsumexp` replaces the loop over time. A next token, unless it repeats the last
    one, is entered with the same a_t whatever it is, so the sums for the whole vocabulary are one matrix product.
    """

    def __init__(self, log_probs_BMV: Tensor, mask_BM: Tensor) -> None:
        # After an utterance's end the blank is certain: the end then stands for every later position.
        certain_V = torch.full_like(log_probs_BMV[0, 0], NEVER)
        certain_V[BLANK] = 0.0
        self.log_probs_BMV = torch.where(mask_BM[..., None], log_probs_BMV.double(), certain_V.double())
        self.probs_BMV = self.log_probs_BMV.exp()
        self.owner_R = torch.arange(len(log_probs_BMV), device=log_probs_BMV.device)  # the row's utterance
        self.blank_RM = self.log_probs_BMV[..., BLANK].cumsum(-1)
        self.token_RM = torch.full_like(self.blank_RM, NEVER)
        self.last_R = torch.full_like(self.owner_R, BOS)

    def ending(self) -> Tensor:
        """Return the log probability of each hypothesis as a whole sentence, `ending_R`."""
        return torch.logaddexp(self.token_RM[:, -1], self.blank_RM[:, -1])

    def _entries(self) -> tuple[Tensor, Tensor]:
        """Return what a next token is entered with at each position: any other token, and the last one again."""
        start_R1 = torch.where(self.last_R == BOS, 0.0, NEVER).double()[:, None]
        other_RM = torch.logaddexp(self.token_RM, self.blank_RM)[:, :-1]
        # A token after itself needs a blank between.
        return torch.cat((start_R1, other_RM), 1), torch.cat((start_R1, self.blank_RM[:, :-1]), 1)

    def extensions(self) -> Tensor:
        """Return `prefix_RV` of each hypothesis with each next token."""
        other_RM, again_RM = self._entries()
        highest_R1 = other_RM.max(-1, keepdim=True).values
        rows_R = torch.arange(len(self.owner_R), device=self.owner_R.device)
        slot_R = rows_R - torch.searchsorted(self.owner_R, self.owner_R)  # rows of one utterance stand together
        active_A, place_R = self.owner_R.unique(return_inverse=True)
        weights_AWM = other_RM.new_zeros(len(active_A), int(slot_R.max()) + 1, other_RM.shape[1])
        weights_AWM[place_R, slot_R] = (other_RM - highest_R1).exp()
        sums_RV = torch.bmm(weights_AWM, self.probs_BMV[active_A])[place_R, slot_R]
        prefix_RV = (sums_RV.log() + highest_R1).clamp_min(NEVER)
        prefix_RV[rows_R, self.last_R] = (again_RM + self.log_probs_BMV[self.owner_R, :, self.last_R]).logsumexp(-1)
        return prefix_RV

    def advance(self, rows: Tensor, tokens: Tensor) -> CtcPrefix:
        """Return the state of chosen rows, each with a token added."""
        other_RM, again_RM = self._entries()
        new = object.__new__(CtcPrefix)
        new.log_probs_BMV, new.probs_BMV = self.log_probs_BMV, self.probs_BMV
        new.owner_R, new.last_R = self.owner_R[rows], tokens
        repeats_R1 = (tokens == self.last_R[rows])[:, None]
        enter_RM = torch.where(repeats_R1, again_RM[rows], other_RM[rows])
        new.token_RM = _accumulate(enter_RM, self.log_probs_BMV[new.owner_R, :, tokens])
        entered_RM = torch.cat((torch.full_like(new.token_RM[:, :1], NEVER), new.token_RM[:, :-1]), dim=-1)
        new.blank_RM = _accumulate(entered_RM, self.log_probs_BMV[new.owner_R, :, BLANK])
        return new


def _accumulate(enter: Tensor, emit: Tensor) -> Tensor:
    """Solve r_t = emit_t + log(exp r_{t−1} + exp enter_t) along the last dimension, r before the first being 0."""
    running = emit.clamp_min(-1e4).cumsum(-1)
    before = torch.cat((torch.zeros_like(running[..., :1]), running[..., :-1]), dim=-1)
    return (running + (enter - before).logcumsumexp(-1)).clamp_min(NEVER)


def ctc_greedy(ctc_logits_BMV: Tensor, mask_BM: Tensor) -> list[list[int]]:
    """Return each utterance's best CTC path with repeats and blanks taken out (Graves et al. 2006, section 3.2)."""
    best_BM = ctc_logits_BMV.argmax(-1).masked_fill(~mask_BM, BLANK)
    collapsed = (torch.unique_consecutive(best_M).tolist() for best_M in best_BM)
    return [[token for token in path if token > UNK] for path in collapsed]


@torch.inference_mode()
def decode(
    model: SpeechTransformer,
    features_BTC: Tensor,
    frames_B: Tensor,
    config: DecodingConfig,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Transcribe a batch: up to `n_best` hypotheses an utterance, best first.

    Without a constraint, an utterance of no frames has one hypothesis, which is empty. Inside a constraint there
    are none where nothing that it allows fits into the utterance.
    """
    memory_BMD, mask_BM = model.encode(features_BTC, frames_B)
    return search(model, memory_BMD, mask_BM, config, constraint)


@torch.inference_mode()
def search(
    model: SpeechTransformer,
    memory_BMD: Tensor,
    mask_BM: Tensor,
    config: DecodingConfig,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Beam search from the encoder's memory, all utterances and hypotheses in one tensor."""
    return _Search(model, memory_BMD, mask_BM, config, constraint).run()


class _Search:
    """The state of one batch's beam search; rows of finished utterances leave it."""

    def __init__(
        self,
        model: SpeechTransformer,
        memory_BMD: Tensor,
        mask_BM: Tensor,
        config: DecodingConfig,
        constraint: Constraint | None,
    ) -> None:
        self.model, self.config, self.constraint = model, config, constraint
        self.lengths = mask_BM.sum(1).tolist()
        log_probs_BMV = model.ctc_logits(memory_BMD).float().log_softmax(-1)
        self.ctc = CtcPrefix(log_probs_BMV, mask_BM) if config.ctc_weight else None
        self.cache = model.start_decoding(memory_BMD, mask_BM)
        self.utterances = list(range(len(self.lengths)))
        self.beams: list[list[Hypothesis]] = [[Hypothesis((), 0.0, ())] for _ in self.utterances]
        self.states: list[list[int]] = [[0] for _ in self.utterances]  # of the constraint
        self.finished: list[list[Hypothesis]] = [[] for _ in self.utterances]
        self.last_R = torch.full((len(self.lengths),), BOS, device=memory_BMD.device)

    def run(self) -> list[list[Hypothesis]]:
        if self.lengths and max(self.lengths):
            for _ in range(max(self.lengths) + 1):
                self._step()
                if not self.utterances:
                    break
        empty = [] if self.constraint is not None else [Hypothesis((), 0.0, ())]
        best = [sorted(done, key=lambda one: -one.log_probability)[: self.config.n_best] for done in self.finished]
        return [(done if length else []) or empty for done, length in zip(best, self.lengths, strict=True)]

    def _step(self) -> None:
        logits_RLV, self.cache = self.model.decode(self.last_R[:, None], self.cache)
        attention_RV = logits_RLV[:, -1].float().log_softmax(-1).double()
        before = torch.tensor([one.attention for beam in self.beams for one in beam], dtype=torch.double)
        attention_RV = attention_RV + before.to(attention_RV.device)[:, None]
        weight = self.config.ctc_weight
        score_RV, prefix_RV = attention_RV.clone(), torch.zeros_like(attention_RV)
        if self.ctc is not None:
            prefix_RV = self.ctc.extensions()
            prefix_RV[:, EOS] = self.ctc.ending()
            joint_RV = (1 - weight) * attention_RV + weight * prefix_RV
            score_RV = joint_RV.masked_fill(prefix_RV <= NEVER / 10, NEVER)  # what the CTC head rules out
        score_RV[:, [BLANK, BOS, UNK]] = NEVER
        score_RV = score_RV.cpu()
        if self.constraint is not None:
            allowed = [self.constraint.allowed(state) for states in self.states for state in states]
            score_RV.masked_fill_(~torch.stack(allowed), NEVER)
        self._advance(score_RV, torch.stack((attention_RV, prefix_RV)).cpu())

    def _advance(self, score_RV: Tensor, parts_2RV: Tensor) -> None:
        rows: list[int] = []
        tokens: list[int] = []
        first, kept_utterances, kept_beams, kept_states = 0, [], [], []
        for utterance, beam, states in zip(self.utterances, self.beams, self.states, strict=True):
            last = first + len(beam)
            chosen = self._choose(utterance, beam, score_RV[first:last], parts_2RV[:, first:last])
            if chosen:
                rows += [first + parent for parent, _, _ in chosen]
                tokens += [token for _, token, _ in chosen]
                kept_utterances.append(utterance)
                kept_beams.append([one for _, _, one in chosen])
                if self.constraint is not None:
                    kept_states.append([self.constraint.next(states[parent], token) for parent, token, _ in chosen])
                else:
                    kept_states.append([0] * len(chosen))
            first = last
        self.utterances, self.beams, self.states = kept_utterances, kept_beams, kept_states
        device = self.last_R.device
        rows_R = torch.tensor(rows, dtype=torch.long, device=device)
        self.last_R = torch.tensor(tokens, dtype=torch.long, device=device)
        self.cache = self.cache.select(rows_R)
        if self.ctc is not None and rows:
            self.ctc = self.ctc.advance(rows_R, self.last_R)

    def _choose(
        self, utterance: int, beam: list[Hypothesis], score_WV: Tensor, parts_2WV: Tensor
    ) -> list[tuple[int, int, Hypothesis]]:
        """Put the hypotheses that end among the finished ones; return the others as (parent, token, new)."""
        n_vocab = score_WV.shape[1]
        if len(beam[0].tokens) == self.lengths[utterance]:
            # No sentence has more tokens than the sound has positions: all that can follow is the end.
            score_WV = torch.full_like(score_WV, NEVER).index_copy(1, torch.tensor([EOS]), score_WV[:, [EOS]])
        best = score_WV.flatten().topk(min(self.config.beam, score_WV.numel()))
        going = []
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            parent, token = divmod(index, n_vocab)
            if score <= NEVER / 10:
                continue
            old = beam[parent]
            shares = (*old.token_log_probabilities, score - old.log_probability)
            attention, ctc = parts_2WV[:, parent, token].tolist()
            if token == EOS:
                self.finished[utterance].append(Hypothesis(old.tokens, score, shares, attention, ctc))
            else:
                going.append((parent, token, Hypothesis((*old.tokens, token), score, shares, attention, ctc)))
        # Scores only fall, so a hypothesis below the worst one that is wanted can no longer win.
        done = sorted((one.log_probability for one in self.finished[utterance]), reverse=True)
        bar = done[self.config.n_best - 1] if len(done) >= self.config.n_best else -math.inf
        return [one for one in going if one[2].log_probability > bar]
