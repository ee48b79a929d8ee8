"""Find the token sequence that decoder and CTC head together hold most likely.

A hypothesis scores (1 − w) · log p_attention + w · log p_CTC (Watanabe et al. 2017, equations 9–15), where
p_CTC of an unfinished hypothesis is the probability of every sentence that begins with it. Greedy decoding
is a beam of one. A `Constraint`, such as the automaton of a grammar, says which tokens may come next; the search
is the same. Nothing here knows of audio or text.

Suffixes: A utterances that are not finished, W hypotheses of each side by side, R rows (A × W), V vocabulary,
M encoder positions, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

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

    Forward variables end in a token (`token_AWM`) or a blank (`blank_AWM`) at each position. Their recursion
    r_t = p_t · (r_{t−1} + a_t) is solved for all positions at once: divided by the running product of p it is
    a running sum, so one `logcumsumexp` replaces the loop over time. A next token, unless it repeats the last
    one, is entered with the same a_t whatever it is, so the sums for the whole vocabulary are one matrix product.
    """

    def __init__(self, log_probs_AMV: Tensor, mask_AM: Tensor, n_hypotheses: int = 1) -> None:
        # After an utterance's end the blank is certain: the end then stands for every later position.
        certain_V = torch.full_like(log_probs_AMV[0, 0], NEVER)
        certain_V[BLANK] = 0.0
        log_probs_AMV = torch.where(mask_AM[..., None], log_probs_AMV.double(), certain_V.double())
        self.log_probs_AVM = log_probs_AMV.transpose(1, 2).contiguous()
        self.probs_AMV = log_probs_AMV.exp()
        self.blank_AWM = log_probs_AMV[:, None, :, BLANK].cumsum(-1).repeat(1, n_hypotheses, 1)
        self.token_AWM = torch.full_like(self.blank_AWM, NEVER)
        self.last_AW = torch.full_like(self.blank_AWM[..., 0], BOS, dtype=torch.long)

    def ending(self) -> Tensor:
        """Return the log probability of each hypothesis as a whole sentence, `ending_AW`."""
        return torch.logaddexp(self.token_AWM[..., -1], self.blank_AWM[..., -1])

    @cached_property
    def entries(self) -> tuple[Tensor, Tensor]:
        """What a next token is entered with at each position: any other token, and the last one again."""
        start_AW1 = torch.where(self.last_AW == BOS, 0.0, NEVER).double()[..., None]
        other_AWM = torch.logaddexp(self.token_AWM, self.blank_AWM)[..., :-1]
        # A token after itself needs a blank between.
        return torch.cat((start_AW1, other_AWM), -1), torch.cat((start_AW1, self.blank_AWM[..., :-1]), -1)

    def emissions(self, tokens_AW: Tensor) -> Tensor:
        """Return the log probability of a token at each position, `emissions_AWM`."""
        return self.log_probs_AVM[torch.arange(len(tokens_AW), device=tokens_AW.device)[:, None], tokens_AW]

    def extensions(self) -> Tensor:
        """Return `prefix_AWV` of each hypothesis with each next token."""
        other_AWM, again_AWM = self.entries
        highest_AW1 = other_AWM.amax(-1, keepdim=True)
        sums_AWV = torch.bmm((other_AWM - highest_AW1).exp(), self.probs_AMV)
        prefix_AWV = (sums_AWV.log() + highest_AW1).clamp_min(NEVER)
        again_AW = (again_AWM + self.emissions(self.last_AW)).logsumexp(-1)
        return prefix_AWV.scatter_(-1, self.last_AW[..., None], again_AW[..., None])

    def advance(self, kept_A: Tensor, parents_AW: Tensor, tokens_AW: Tensor) -> CtcPrefix:
        """Return the state of chosen utterances' chosen hypotheses, each with a token added."""
        new = object.__new__(CtcPrefix)
        new.log_probs_AVM, new.probs_AMV, new.last_AW = self.log_probs_AVM, self.probs_AMV, tokens_AW
        if len(kept_A) < len(self.last_AW):
            new.log_probs_AVM, new.probs_AMV = self.log_probs_AVM[kept_A], self.probs_AMV[kept_A]
        chosen = kept_A[:, None], parents_AW
        other_AWM, again_AWM = self.entries
        repeats_AW1 = (tokens_AW == self.last_AW[chosen])[..., None]
        enter_AWM = torch.where(repeats_AW1, again_AWM[chosen], other_AWM[chosen])
        new.token_AWM = _accumulate(enter_AWM, new.emissions(tokens_AW))
        entered_AWM = torch.cat((torch.full_like(new.token_AWM[..., :1], NEVER), new.token_AWM[..., :-1]), dim=-1)
        new.blank_AWM = _accumulate(entered_AWM, new.log_probs_AVM[:, None, BLANK])
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


@dataclass(frozen=True)
class Task:
    """One of the searches that are made side by side over the same sound."""

    config: DecodingConfig
    constraint: Constraint | None = None


@torch.inference_mode()
def search(
    model: SpeechTransformer,
    memory_BMD: Tensor,
    mask_BM: Tensor,
    config: DecodingConfig,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Beam search from the encoder's memory, all utterances and hypotheses in one tensor."""
    return search_together(model, memory_BMD, mask_BM, [Task(config, constraint)])[0]


@torch.inference_mode()
def search_together(
    model: SpeechTransformer, memory_BMD: Tensor, mask_BM: Tensor, tasks: Sequence[Task]
) -> list[list[list[Hypothesis]]]:
    """Make several searches in the steps of one: for each task what `search` returns."""
    return _Search(model, memory_BMD, mask_BM, tasks).run()


@dataclass
class _Lane:
    """One task within a batch's search: `width` columns of the grid, and what is found so far."""

    config: DecodingConfig
    constraint: Constraint | None
    width: int
    beams: list[list[Hypothesis]]  # of each utterance that is not finished, best first, at most `width`
    states: list[list[int]]  # the constraint's, of each of them
    finished: list[list[Hypothesis]]  # of each utterance of the batch


class _Grown(NamedTuple):
    """A hypothesis that goes on: the column of its parent within the lane, its last token, itself."""

    parent: int
    token: int
    hypothesis: Hypothesis


class _Search:
    """The state of one batch's beam search: a grid of utterances by hypotheses, which finished ones leave."""

    def __init__(self, model: SpeechTransformer, memory_BMD: Tensor, mask_BM: Tensor, tasks: Sequence[Task]) -> None:
        self.model = model
        self.lengths = mask_BM.sum(1).tolist()
        self.device = memory_BMD.device
        self.utterances = list(range(len(self.lengths)))
        self.n_tokens = 0
        self.lanes = [
            _Lane(
                task.config, task.constraint, 1,
                [[Hypothesis((), 0.0, ())] for _ in self.utterances],
                [[0] for _ in self.utterances],
                [[] for _ in self.utterances],
            )
            for task in tasks
        ]  # fmt: skip
        self.cache = model.start_decoding(memory_BMD, mask_BM)
        self.ctc: CtcPrefix | None = None
        if max(self.lengths, default=0) and any(task.config.ctc_weight for task in tasks):
            self.ctc = CtcPrefix(model.ctc_logits(memory_BMD).float().log_softmax(-1), mask_BM, len(tasks))
        self.last_AW = torch.full((len(self.lengths), len(tasks)), BOS, device=self.device)
        self.attention_AW = torch.zeros_like(self.last_AW, dtype=torch.double)
        is_word = torch.ones(model.config.vocab_size, dtype=torch.bool)
        is_word[[BLANK, BOS, UNK]] = False
        self.is_word_V, self.is_end_V = is_word, torch.zeros_like(is_word).index_fill(0, torch.tensor([EOS]), True)

    def run(self) -> list[list[list[Hypothesis]]]:
        if max(self.lengths, default=0):
            while self.utterances:
                self._step()
        return [[self._best(lane, i) for i in range(len(self.lengths))] for lane in self.lanes]

    def _best(self, lane: _Lane, utterance: int) -> list[Hypothesis]:
        done = lane.finished[utterance] if self.lengths[utterance] else []
        best = sorted(done, key=lambda one: -one.log_probability)[: lane.config.n_best]
        return best or ([Hypothesis((), 0.0, ())] if lane.constraint is None else [])

    def _step(self) -> None:
        logits_RLV, self.cache = self.model.decode(self.last_AW.view(-1, 1), self.cache)
        log_probs_RV = logits_RLV[:, -1].float().log_softmax(-1).double()
        attention_AWV = log_probs_RV.unflatten(0, self.last_AW.shape) + self.attention_AW[..., None]
        prefix_AWV = torch.zeros_like(attention_AWV)
        if self.ctc is not None:
            prefix_AWV = self.ctc.extensions()
            prefix_AWV[..., EOS] = self.ctc.ending()
        grown, first = [], 0
        for lane in self.lanes:
            columns = slice(first, first + lane.width)
            grown.append(self._grow(lane, attention_AWV[:, columns], prefix_AWV[:, columns]))
            first += lane.width
        self._advance(grown)

    def _grow(self, lane: _Lane, attention_AWV: Tensor, prefix_AWV: Tensor) -> list[list[_Grown]]:
        """Return each utterance's best hypotheses with one more token; put those that end among the finished."""
        if not lane.width:
            return [[] for _ in self.utterances]
        weight, score_AWV = lane.config.ctc_weight, attention_AWV
        if weight:
            joint_AWV = (1 - weight) * attention_AWV + weight * prefix_AWV
            score_AWV = joint_AWV.masked_fill(prefix_AWV <= NEVER / 10, NEVER)  # what the CTC head rules out
        score_AWV = score_AWV.masked_fill(~self._allowed(lane).to(self.device), NEVER)
        n_vocab = score_AWV.shape[-1]
        best = score_AWV.flatten(1).topk(min(lane.config.beam, lane.width * n_vocab))
        parts = (part_AWV.flatten(1).gather(1, best.indices) for part_AWV in (attention_AWV, prefix_AWV))
        numbers = torch.stack((best.values, *parts), -1).tolist()
        grown: list[list[_Grown]] = []
        for place, indices in enumerate(best.indices.tolist()):
            finished, going = lane.finished[self.utterances[place]], []
            for (score, attention, ctc), index in zip(numbers[place], indices, strict=True):
                if score <= NEVER / 10:
                    break
                parent, token = divmod(index, n_vocab)
                old = lane.beams[place][parent]
                tokens = old.tokens if token == EOS else (*old.tokens, token)
                shares = (*old.token_log_probabilities, score - old.log_probability)
                new = Hypothesis(tokens, score, shares, attention, ctc if weight else 0.0)
                if token == EOS:
                    finished.append(new)
                else:
                    going.append(_Grown(parent, token, new))
            # Scores only fall, so a hypothesis below the worst one that is wanted can no longer win.
            done = sorted((one.log_probability for one in finished), reverse=True)
            bar = done[lane.config.n_best - 1] if len(done) >= lane.config.n_best else -math.inf
            grown.append([one for one in going if one.hypothesis.log_probability > bar])
        return grown

    def _allowed(self, lane: _Lane) -> Tensor:
        """Return which tokens may follow, `allowed_AWV`: none where an utterance has no such hypothesis (any more)."""
        nothing_V, rows = torch.zeros_like(self.is_word_V), []
        for utterance, states in zip(self.utterances, lane.states, strict=True):
            # No sentence has more tokens than the sound has positions: all that can follow is the end.
            may_V = self.is_end_V if self.n_tokens == self.lengths[utterance] else self.is_word_V
            if lane.constraint is None:
                rows += [may_V] * len(states)
            else:
                rows += [lane.constraint.allowed(state) & may_V for state in states]
            rows += [nothing_V] * (lane.width - len(states))
        return torch.stack(rows).unflatten(0, (-1, lane.width))

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
        kept_A = torch.tensor(kept, device=self.device)
        parents, tokens, attention = ([[one[i] for one in row] for row in columns] for i in range(3))
        parents_AW = torch.tensor(parents, device=self.device)
        self.last_AW = torch.tensor(tokens, device=self.device)
        self.attention_AW = torch.tensor(attention, device=self.device, dtype=torch.double)
        some_left = len(kept) < self.cache.n_utterances
        self.cache = self.cache.select((kept_A[:, None] * width + parents_AW).flatten(), kept_A if some_left else None)
        if self.ctc is not None:
            self.ctc = self.ctc.advance(kept_A, parents_AW, self.last_AW)
