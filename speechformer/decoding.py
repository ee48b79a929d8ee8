"""Find the token sequence that decoder and CTC head together hold most likely.

A hypothesis scores (1 − w) · log p_attention + w · log p_CTC (Watanabe et al. 2017, equations 9–15), where
p_CTC of an unfinished hypothesis is the probability of every sentence that begins with it. Greedy decoding
is a beam of one. A `Constraint`, such as the automaton of a grammar, says which tokens may come next; the search
is the same. Nothing here knows of audio or text.

Suffixes: R rows (utterance × hypothesis), W beam, V vocabulary, M encoder positions, L tokens.
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
    a running sum, so one `logcumsumexp` replaces the loop over time.
    """

    def __init__(self, log_probs_RMV: Tensor, mask_RM: Tensor) -> None:
        # After an utterance's end the blank is certain: the end then stands for every later position.
        certain_V = torch.full_like(log_probs_RMV[0, 0], NEVER)
        certain_V[BLANK] = 0.0
        self.log_probs_RMV = torch.where(mask_RM[..., None], log_probs_RMV.double(), certain_V.double())
        self.blank_RM = self.log_probs_RMV[..., BLANK].cumsum(-1)
        self.token_RM = torch.full_like(self.blank_RM, NEVER)
        self.last_R = torch.full_like(self.blank_RM[:, 0], BOS, dtype=torch.long)

    def ending(self) -> Tensor:
        """Return the log probability of each hypothesis as a whole sentence, `ending_R`."""
        return torch.logaddexp(self.token_RM[:, -1], self.blank_RM[:, -1])

    def extensions(self) -> tuple[Tensor, Tensor]:
        """Return `prefix_RV` and the forward variables `token_RVM` of each hypothesis with each next token."""
        either_RM = torch.logaddexp(self.token_RM, self.blank_RM)
        n_rows, _, n_vocab = self.log_probs_RMV.shape
        enter_RVM = either_RM[:, None].expand(n_rows, n_vocab, -1).clone()
        # A token after itself needs a blank between.
        rows = torch.arange(n_rows, device=self.last_R.device)
        enter_RVM[rows, self.last_R] = self.blank_RM
        start_R = torch.where(self.last_R == BOS, 0.0, NEVER).double()
        start_RV1 = start_R[:, None, None].expand(n_rows, n_vocab, 1)
        enter_RVM = torch.cat((start_RV1, enter_RVM[..., :-1]), dim=-1)
        emit_RVM = self.log_probs_RMV.transpose(1, 2)
        prefix_RV = (enter_RVM + emit_RVM).logsumexp(-1)
        return prefix_RV, _accumulate(enter_RVM, emit_RVM)

    def advance(self, rows: Tensor, tokens: Tensor, token_RVM: Tensor) -> CtcPrefix:
        """Return the state of chosen rows, each with a token added."""
        new = object.__new__(CtcPrefix)
        new.log_probs_RMV, new.last_R = self.log_probs_RMV[rows], tokens
        new.token_RM = token_RVM[rows, tokens]
        blank_RM = new.log_probs_RMV[..., BLANK]
        entered_RM = torch.cat((torch.full_like(new.token_RM[:, :1], NEVER), new.token_RM[:, :-1]), dim=-1)
        new.blank_RM = _accumulate(entered_RM, blank_RM)
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
        score_RV, prefix_RV, token_RVM = attention_RV.clone(), torch.zeros_like(attention_RV), None
        if self.ctc is not None:
            prefix_RV, token_RVM = self.ctc.extensions()
            prefix_RV[:, EOS] = self.ctc.ending()
            joint_RV = (1 - weight) * attention_RV + weight * prefix_RV
            score_RV = joint_RV.masked_fill(prefix_RV <= NEVER / 10, NEVER)  # what the CTC head rules out
        score_RV[:, [BLANK, BOS, UNK]] = NEVER
        score_RV = score_RV.cpu()
        if self.constraint is not None:
            allowed = [self.constraint.allowed(state) for states in self.states for state in states]
            score_RV.masked_fill_(~torch.stack(allowed), NEVER)
        self._advance(score_RV, torch.stack((attention_RV, prefix_RV)).cpu(), token_RVM)

    def _advance(self, score_RV: Tensor, parts_2RV: Tensor, token_RVM: Tensor | None) -> None:
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
        if self.ctc is not None and token_RVM is not None:
            self.ctc = self.ctc.advance(rows_R, self.last_R, token_RVM)

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
