"""Beam search and CTC prefix scores against slow ones that sum and try everything."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from speechformer import beam_search
from speechformer.beam_search import search
from speechformer.ctc import CtcPrefix, ctc_greedy
from speechformer.decoding import (
    Constraint,
    DecodingConfig,
    Hypothesis,
    Memory,
)
from speechformer.errors import ConfigError
from speechformer.model import SpeechTransformer
from speechformer.rescoring import ctc_score, mean_hypothesis, rescore
from speechformer.tokenizer import BOS, EOS
from speechformer.tokenizer import PAD as BLANK
from speechformer.torch_recogniser import TorchCache, TorchRecogniser

MakeModel = Callable[..., SpeechTransformer]
pytestmark = pytest.mark.usefixtures("shapes")
WORDS = (4, 5)  # what is left of a vocabulary of six
weights = pytest.mark.parametrize("weight", [0.0, 0.02, 0.3, 0.98, 1.0])


def collapse(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def all_sentences(log_probs_MV: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every sentence, summed over all its alignments."""
    probabilities: dict[tuple[int, ...], float] = defaultdict(float)
    rows = log_probs_MV.double().exp().tolist()
    for path in itertools.product(range(log_probs_MV.shape[1]), repeat=len(rows)):
        probabilities[collapse(path)] += math.prod(row[token] for row, token in zip(rows, path, strict=True))
    return probabilities


class Textbook:
    """The joint score of any hypothesis, from its definition: no cache, no batch, no recursion."""

    def __init__(self, model: SpeechTransformer, features_1TC: Tensor, weight: float) -> None:
        self.model, self.weight = model, weight
        self.memory = model.encode(features_1TC, torch.tensor([features_1TC.shape[1]]))
        self.n_positions = self.memory[0].shape[1]
        self.sentences = all_sentences(model.ctc_logits(self.memory[0])[0].log_softmax(-1))

    @torch.inference_mode()
    def score(self, tokens: tuple[int, ...], ended: bool) -> float:
        read, written = [BOS, *tokens], [*tokens, EOS]
        logits_BLV, _ = self.model.decode(torch.tensor([read]), self.model.start_decoding(*self.memory))
        log_probs_LV = logits_BLV[0].log_softmax(-1).double()
        attention = sum(float(log_probs_LV[i, token]) for i, token in enumerate(written[: len(tokens) + ended]))
        begins = (p for words, p in self.sentences.items() if words[: len(tokens)] == tokens)
        ctc = self.sentences.get(tokens, 0.0) if ended else sum(begins)
        if self.weight and not ctc:
            return -math.inf
        return (1 - self.weight) * attention + (self.weight * math.log(ctc) if self.weight else 0.0)

    def exhaustive(self) -> list[tuple[tuple[int, ...], float]]:
        """Every sentence with its score, best first."""
        lengths = range(self.n_positions + 1)
        every = [words for length in lengths for words in itertools.product(WORDS, repeat=length)]
        scored = [(words, self.score(words, ended=True)) for words in every]
        return sorted((pair for pair in scored if pair[1] > -math.inf), key=lambda pair: -pair[1])

    def greedy(self) -> tuple[tuple[int, ...], float]:
        """Take the best next token until it is the end."""
        tokens: tuple[int, ...] = ()
        while len(tokens) < self.n_positions:
            choices = {word: self.score((*tokens, word), ended=False) for word in WORDS}
            best = max(choices, key=lambda word: choices[word])
            if self.score(tokens, ended=True) >= choices[best]:
                break
            tokens = (*tokens, best)
        return tokens, self.score(tokens, ended=True)


def sharp_model(make_model: MakeModel, seed: int = 0) -> SpeechTransformer:
    """Return a small model whose two heads have strong opinions."""
    model = make_model(seed)
    with torch.no_grad():
        model.ctc_head.weight *= 3
        model.decoder.embedding.weight *= 3
    return model.requires_grad_(False)


def draw_features(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(seed))


def decode(
    model: SpeechTransformer,
    features_BTC: Tensor,
    frames_B: Tensor,
    config: DecodingConfig,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Have torch decode what is in tensors."""
    return beam_search.decode(TorchRecogniser(model), features_BTC.numpy(), frames_B.numpy(), config, constraint)


def as_pairs(hypotheses: list[Hypothesis]) -> list[tuple[tuple[int, ...], float]]:
    return [(one.tokens, one.log_probability) for one in hypotheses]


def same_pairs(found: list[tuple[tuple[int, ...], float]], expected: list[tuple[tuple[int, ...], float]]) -> None:
    assert [words for words, _ in found] == [words for words, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-4)


class OneWord:
    """A constraint: one word, any number of times."""

    def allowed(self, state: int) -> npt.NDArray[np.bool_]:
        allowed_V = np.zeros(6, np.bool_)
        allowed_V[[4, EOS]] = True
        return allowed_V

    def next(self, state: int, token: int) -> int:
        assert token == 4
        return state + 1


@weights
def test_a_full_width_beam_is_exhaustive_search(make_model: MakeModel, weight: float) -> None:
    for seed in range(3):
        model, features_BTC = sharp_model(make_model, seed), draw_features(5, seed)
        config = DecodingConfig(beam=100, n_best=100, ctc_weight=weight)
        found = decode(model, features_BTC, torch.tensor([5]), config)[0]
        same_pairs(as_pairs(found), Textbook(model, features_BTC, weight).exhaustive())


@weights
def test_the_best_of_a_full_width_beam_is_the_best_there_is(make_model: MakeModel, weight: float) -> None:
    model, features_BTC = sharp_model(make_model), draw_features(5)
    found = decode(model, features_BTC, torch.tensor([5]), DecodingConfig(beam=100, ctc_weight=weight))[0]
    same_pairs(as_pairs(found), Textbook(model, features_BTC, weight).exhaustive()[:1])


@weights
@pytest.mark.parametrize("reward", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n_best", [1, 4])
def test_what_tokens_earn_is_part_of_what_texts_are_ranked_by(
    make_model: MakeModel, weight: float, reward: float, n_best: int
) -> None:
    differs = []
    for seed in range(6):
        model, features_BTC = sharp_model(make_model, seed), draw_features(5, seed)
        config = DecodingConfig(beam=100, n_best=n_best, ctc_weight=weight, token_reward=reward)
        found = decode(model, features_BTC, torch.tensor([5]), config)[0]
        every = Textbook(model, features_BTC, weight).exhaustive()
        same_pairs(as_pairs(found), sorted(every, key=lambda one: -(one[1] + reward * len(one[0])))[:n_best])
        assert [one.score - one.log_probability for one in found] == pytest.approx(
            [reward * len(one.tokens) for one in found]
        )
        differs.append(found[-1].tokens != every[n_best - 1][0])
    assert any(differs) or reward < 3  # it does matter


@weights
def test_what_is_a_threshold_behind_the_best_goes_no_further(make_model: MakeModel, weight: float) -> None:
    fewer = []
    for seed in range(6):
        model, features_BTC = sharp_model(make_model, seed), draw_features(5, seed)
        found = {
            threshold: decode(
                model, features_BTC, torch.tensor([5]),
                DecodingConfig(beam=100, n_best=100, ctc_weight=weight, beam_threshold=threshold),
            )[0]
            for threshold in (None, 1e6, 2.0, 1e-6)
        }  # fmt: skip
        assert found[1e6] == found[None]
        same_pairs(as_pairs(found[1e-6][:1]), [Textbook(model, features_BTC, weight).greedy()])
        assert {one.tokens for one in found[2.0]} < {one.tokens for one in found[None]}
        fewer.append(len(found[1e-6]) < len(found[2.0]))
    assert any(fewer)


class Places:
    """A constraint that lets every word follow and counts: all sequences of a length are in one state, or none two."""

    def __init__(self, apart: bool) -> None:
        self.apart = apart

    def allowed(self, state: int) -> npt.NDArray[np.bool_]:
        return np.array([token in (*WORDS, EOS) for token in range(6)])

    def next(self, state: int, token: int) -> int:
        return 10 * state + token if self.apart else state + 1


@pytest.mark.parametrize("n", [1, 2, 5])
def test_of_those_in_one_state_the_best_go_on(make_model: MakeModel, n: int) -> None:
    differs = []
    for seed in range(6):
        model, features_BTC = sharp_model(make_model, seed), draw_features(6, seed)
        all_of, few, narrow = (
            decode(model, features_BTC, torch.tensor([6]), config, Places(apart))[0]
            for apart, config in (
                (True, DecodingConfig(beam=100, n_best=100, per_state=n)),
                (False, DecodingConfig(beam=100, n_best=100, per_state=n)),
                (False, DecodingConfig(beam=100, n_best=100)),
            )
        )
        assert all_of == narrow  # where none two are in one state, that is no limit
        unbound = DecodingConfig(beam=100, n_best=100, per_state=n)
        assert len(decode(model, features_BTC, torch.tensor([6]), unbound)[0]) == len(narrow)
        lengths = Counter(len(one.tokens) for one in few)
        assert max(lengths.values()) <= n
        assert {one.tokens for one in few} <= {one.tokens for one in narrow}
        differs.append(len(few) < len(narrow))
    assert any(differs)


@weights
def test_a_beam_of_one_is_greedy(make_model: MakeModel, weight: float) -> None:
    for seed in range(6):
        model, features_BTC = sharp_model(make_model, seed), draw_features(5, seed)
        found = decode(model, features_BTC, torch.tensor([5]), DecodingConfig(ctc_weight=weight))[0]
        same_pairs(as_pairs(found), [Textbook(model, features_BTC, weight).greedy()])


def test_a_decoder_that_never_ends_is_ended_at_the_last_position(make_model: MakeModel) -> None:
    model = make_model().requires_grad_(False)
    with torch.no_grad():
        model.decoder.embedding.weight[EOS] = -10 * model.decoder.embedding.weight[4]
        model.decoder.norm.bias += 10 * model.decoder.embedding.weight[4]
    one = decode(model, draw_features(5), torch.tensor([5]), DecodingConfig(ctc_weight=0.0))[0][0]
    assert len(one.tokens) == 3
    assert one.log_probability < -1


def walk(prefix: CtcPrefix, tokens: Sequence[int]) -> CtcPrefix:
    """Give every hypothesis of a prefix state the same tokens."""
    n_utterances = len(prefix.last_AW)
    for token in tokens:
        same_AW = np.full((n_utterances, 1), token)
        prefix = prefix.advance(np.arange(n_utterances), np.zeros_like(same_AW), same_AW)
    return prefix


@pytest.mark.parametrize(
    "tokens",
    [(), (4,), (5,), (4, 4), (4, 5), (5, 5, 5), (4, 4, 5), (5, 4, 5)],
    ids=str,
)
def test_prefix_scores_are_the_sum_over_all_alignments(tokens: tuple[int, ...]) -> None:
    lengths = (5, 3)
    draw = torch.Generator().manual_seed(3)
    log_probs_AMV = torch.randn(2, 5, 6, generator=draw).mul(2).log_softmax(-1)
    state = walk(CtcPrefix(log_probs_AMV.numpy(), np.array(lengths)), tokens)
    prefix_AWV = state.extensions(np.arange(6))
    for row, length in enumerate(lengths):
        sentences = all_sentences(log_probs_AMV[row, :length])
        assert math.exp(state.ending()[row, 0]) == pytest.approx(sentences.get(tokens, 0.0), rel=1e-9)
        for word in WORDS:
            longer = (*tokens, word)
            expected = sum(p for words, p in sentences.items() if words[: len(longer)] == longer)
            assert math.exp(prefix_AWV[row, 0, word]) == pytest.approx(expected, rel=1e-6)


def test_prefix_scores_of_a_long_utterance_agree_with_the_ctc_loss() -> None:
    log_probs_AMV = torch.randn(1, 400, 6, generator=torch.Generator().manual_seed(4)).mul(5).log_softmax(-1)
    tokens = (4, 4, 5, 4, 5, 5, 5, 4) * 5
    state = walk(CtcPrefix(log_probs_AMV.numpy(), np.array([400])), tokens)
    log_probs_MAV = log_probs_AMV.double().transpose(0, 1)
    loss = functional.ctc_loss(log_probs_MAV, torch.tensor([tokens]), (400,), (len(tokens),), reduction="sum")
    assert float(state.ending()[0, 0]) == pytest.approx(-float(loss), rel=1e-9)


def test_a_certain_ctc_head_gives_its_sentence_for_certain() -> None:
    log_probs_AMV = torch.full((1, 6, 6), -math.inf)
    for position, token in enumerate((0, 4, 4, 0, 4, 5)):
        log_probs_AMV[0, position, token] = 0.0
    state = walk(CtcPrefix(log_probs_AMV.numpy(), np.array([6])), (4, 4, 5))
    assert float(state.ending()[0, 0]) == pytest.approx(0.0, abs=1e-9)
    assert not np.isnan(state.extensions(np.arange(6))).any()


@weights
@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_is_decoded_as_its_utterances_alone(make_model: MakeModel, weight: float, beam: int) -> None:
    model = sharp_model(make_model)
    config = DecodingConfig(beam=beam, n_best=beam, ctc_weight=weight)
    frames = (5, 16, 0, 9, 2)
    features_BTC = torch.cat([functional.pad(draw_features(n, i), (0, 0, 0, 16 - n)) for i, n in enumerate(frames)])
    together = decode(model, features_BTC, torch.tensor(frames), config)
    for i, n in enumerate(frames):
        alone = decode(model, features_BTC[i : i + 1, :n], torch.tensor([n]), config)[0]
        same_pairs(as_pairs(together[i]), as_pairs(alone))


@weights
def test_what_the_ctc_head_finds_is_rescored_as_searches_score_it(make_model: MakeModel, weight: float) -> None:
    frames = (3, 16, 0, 11)
    features_BTC = torch.cat([functional.pad(draw_features(n, i), (0, 0, 0, 16 - n)) for i, n in enumerate(frames)])
    recogniser = Counting(sharp_model(make_model))
    memory, recogniser.reads = recogniser.listen(features_BTC.numpy(), np.array(frames)), []
    found = search(recogniser, memory, DecodingConfig(beam=50, n_best=6, ctc_weight=1.0), OneWord())
    assert [len(some) for some in found] == [3, 6, 0, 6]
    assert recogniser.reads == [], "the decoder has no say"
    config = DecodingConfig(beam=50, n_best=50, ctc_weight=weight, token_reward=0.7)
    expected = search(recogniser, memory, config, OneWord())
    recogniser.reads = []
    for some, every, rescored in zip(found, expected, rescore(recogniser, memory, config, found), strict=True):
        searched = {one.tokens: one for one in every}
        assert {one.tokens for one in some} == {one.tokens for one in rescored} <= searched.keys()
        assert [one.score for one in rescored] == sorted((one.score for one in rescored), reverse=True)
        for one in rescored:
            assert np.hstack(one[1:]) == pytest.approx(np.hstack(searched[one.tokens][1:]), abs=1e-4)
    assert len(recogniser.reads) == (weight < 1), "all texts are read at once"


def test_there_may_be_nothing_to_rescore(make_model: MakeModel) -> None:
    recogniser = TorchRecogniser(make_model())
    memory = recogniser.listen(draw_features(9).numpy(), np.array([9]))
    assert rescore(recogniser, memory, DecodingConfig(), [[]]) == [[]]
    assert ctc_score(memory, [[]]) == [[]]


def test_given_texts_have_the_scores_that_searches_find(make_model: MakeModel) -> None:
    model, frames = sharp_model(make_model), (9, 11, 5)
    texts = [[(4,), (4, 5), (5, 4, 4), ()], [(5,)], [(), (4, 4)]]
    features_BTC = torch.cat([functional.pad(draw_features(n, n), (0, 0, 0, 11 - n)) for n in frames])
    memory = TorchRecogniser(model).listen(features_BTC.numpy(), np.array(frames))
    for n, some, found in zip(frames, texts, ctc_score(memory, texts), strict=True):
        wide = DecodingConfig(beam=999, n_best=999, ctc_weight=1.0)
        searched = {one.tokens: one for one in decode(model, draw_features(n, n), torch.tensor([n]), wide)[0]}
        assert [one.tokens for one in found] == some
        for one in found:
            assert np.hstack(one[1:]) == pytest.approx(np.hstack(searched[one.tokens][1:]), abs=1e-4)


def test_a_text_that_an_utterance_has_no_room_for_has_no_hypothesis(make_model: MakeModel) -> None:
    memory = TorchRecogniser(sharp_model(make_model)).listen(draw_features(3).numpy(), np.array([3]))
    texts = [[(4,), (4, 5, 4, 5)]]  # two positions
    assert [one.tokens for one in ctc_score(memory, texts)[0]] == [(4,)]


def test_positions_where_the_blank_is_certain_change_nothing() -> None:
    heard_MV = np.random.default_rng(0).standard_normal((3, 6)) * 2
    heard_MV -= np.logaddexp.reduce(heard_MV, -1, keepdims=True)
    blank_1V = np.where(np.arange(6) == BLANK, -1e-7, -30.0)[None]
    around = [blank_1V] * 3, [heard_MV[:1]], [blank_1V] * 2, [heard_MV[1:]], [blank_1V] * 3
    sentences = all_sentences(torch.from_numpy(np.concatenate([part for parts in around for part in parts[:1]])))
    batch_BMV = np.zeros((2, 11, 6), np.float32)
    batch_BMV[0] = np.concatenate([part for parts in around for part in parts])
    batch_BMV[1, :2] = blank_1V
    memory = Memory(batch_BMV, np.array([11, 2]), None)
    assert CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B).probs_AMV.shape[1] == 6
    heard, nothing = ctc_score(memory, [[(4,), (4, 4), (4, 5, 4), ()], [()]])
    assert [one.ctc for one in heard] == pytest.approx([math.log(sentences[one.tokens]) for one in heard], abs=1e-4)
    assert [one.ctc for one in nothing] == pytest.approx([0.0], abs=1e-4)


def test_the_mean_of_hearings_is_of_all_their_log_probabilities() -> None:
    one = Hypothesis((4, 5), -6.0, (-1.0, -2.0, -3.0), -8.0, -4.0, 1.4)
    other = Hypothesis((4, 5), -3.0, (-1.0, -1.0, -1.0), -2.0, -4.0, 1.4)
    assert mean_hypothesis([one, other]) == Hypothesis((4, 5), -4.5, (-1.0, -1.5, -2.0), -5.0, -4.0, 1.4)


class Counting(TorchRecogniser):
    """A recogniser that remembers how many tokens of how many hypotheses were read at once."""

    reads: list[tuple[int, int]]

    def read(self, tokens_RL: npt.NDArray[np.int64], cache: TorchCache) -> tuple[npt.NDArray[np.float32], TorchCache]:
        self.reads.append((tokens_RL.shape[0], tokens_RL.shape[1]))
        return super().read(tokens_RL, cache)


@pytest.mark.parametrize("draft", ["right", "cut", "too long", "wrong from the second on", "wrong", "of others"])
def test_a_draft_saves_steps_and_changes_nothing(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, draft: str
) -> None:
    recogniser, frames = Counting(sharp_model(make_model, 1)), (5, 16, 0, 9, 2, 30, 12)
    features = [functional.pad(draw_features(n, i), (0, 0, 0, 30 - n)) for i, n in enumerate(frames)]
    memory = recogniser.listen(torch.cat(features).numpy(), np.array(frames))
    recogniser.reads, config = [], DecodingConfig(ctc_weight=0.1)
    monkeypatch.setattr(
        beam_search, "_DraftedReading", lambda recogniser, memory, _: beam_search._Reading(recogniser, memory)
    )
    expected = search(recogniser, memory, config)
    monkeypatch.undo()
    texts = [list(one[0].tokens) for one in expected]
    n_steps = len(recogniser.reads)
    assert n_steps == 1 + max(map(len, texts)) > 4
    drafts = {
        "right": texts,
        "cut": [text[: i % 3] for i, text in enumerate(texts)],
        "too long": [[*text, 4, 5] for text in texts],
        "wrong from the second on": [[*text[:1], *(9 - token for token in text[1:])] for text in texts],
        "wrong": [[9 - token for token in text] for text in texts],
        "of others": [*texts[1:], texts[0]],
    }
    recogniser.reads = []
    for found, wanted in zip(search(recogniser, memory, config, drafts=drafts[draft]), expected, strict=True):
        same_pairs(as_pairs(found), as_pairs(wanted))
    assert recogniser.reads[0] == (len(frames), 1 + max(map(len, drafts[draft])))
    if draft == "right":
        assert len(recogniser.reads) == 1
    else:
        assert (len(recogniser.reads) > 1) == (draft != "too long")
        assert all(read[1] == 1 for read in recogniser.reads[1:])
        assert len(recogniser.reads) <= n_steps + 1


def test_a_decoder_that_goes_round_in_a_circle_is_held_to_the_sound(make_model: MakeModel) -> None:
    model = make_model().requires_grad_(False)
    with torch.no_grad():
        model.decoder.embedding.weight[EOS] = -10 * model.decoder.embedding.weight[4]
        model.decoder.norm.bias += 10 * model.decoder.embedding.weight[4]  # one word, without end
        model.ctc_head.weight *= 0
        model.ctc_head.bias[:] = torch.tensor([20.0, -9, -9, -9, -9, -9])  # and there is nothing to hear
    features, frames = draw_features(40), torch.tensor([40])
    loose, held = (
        decode(model, features, frames, DecodingConfig(beam=2, ctc_weight=0.02, ctc_slack=slack))[0][0]
        for slack in (None, 0.6)
    )
    assert len(loose.tokens) > 3
    assert len(held.tokens) <= 1


class Parrot:
    """A recogniser whose decoder looks at the last token alone, and the cache that it needs."""

    def __init__(self, follows: dict[int, dict[int, float]]) -> None:
        self.follows, self.n_utterances = follows, 1

    def select(self, rows: object, utterances: object = None) -> Parrot:
        return self

    def read(self, tokens_RL: npt.NDArray[np.int64], cache: Parrot) -> tuple[npt.NDArray[np.float32], Parrot]:
        follows_LV = [[self.follows[token].get(after, -50.0) for after in range(6)] for token in tokens_RL[0].tolist()]
        return np.array([follows_LV], np.float32), self

    def search(self, ctc: list[dict[int, float]], constraint: Constraint | None) -> list[Hypothesis]:
        """Search in positions whose log probabilities are given, where not −50."""
        log_probs_BMV = np.array([[[position.get(one, -50.0) for one in range(6)] for position in ctc]], np.float32)
        config = DecodingConfig(beam=2, ctc_weight=0.02, ctc_slack=0.0)
        return search(self, Memory(log_probs_BMV, np.array([len(ctc)]), self), config, constraint)[0]  # type: ignore[arg-type]


def test_where_all_that_may_be_written_is_far_from_the_sound_it_is_written_nevertheless() -> None:
    parrot = Parrot({BOS: {4: -0.1, EOS: -3}, 4: {EOS: -0.1, 4: -3}})
    found = parrot.search([{5: 0.0}, {BLANK: 0.0}, {5: 0.0}], OneWord())  # 5 was heard, and only 4 is allowed
    assert [one.tokens for one in found] == [(4,)]


def test_once_something_near_the_sound_is_written_nothing_far_goes_on() -> None:
    parrot = Parrot({BOS: {4: -0.05, EOS: -3}, 4: {EOS: -0.001, 4: -9}})
    # No word lies 9 nats under the best path, the word alone 11, and what begins with it 2.
    ctc = [{BLANK: 0.0, 4: -2.0}, {BLANK: 0.0}, {5: 0.0, BLANK: -9.0}]
    assert [one.tokens for one in parrot.search(ctc, OneWord())] == [()]


@weights
def test_the_n_best_are_sorted_distinct_and_of_real_words(make_model: MakeModel, weight: float) -> None:
    config = DecodingConfig(beam=8, n_best=5, ctc_weight=weight)
    found = decode(sharp_model(make_model), draw_features(9), torch.tensor([9]), config)[0]
    scores = [one.log_probability for one in found]
    assert len({one.tokens for one in found}) == len(found) > 1
    assert scores == sorted(scores, reverse=True)
    assert all(-1e3 < score < 0 for score in scores)
    assert all(token in WORDS for one in found for token in one.tokens)


def test_the_shares_of_tokens_and_end_add_up_to_the_score(make_model: MakeModel) -> None:
    config = DecodingConfig(beam=4, n_best=4)
    for one in decode(sharp_model(make_model), draw_features(9), torch.tensor([9]), config)[0]:
        assert len(one.token_log_probabilities) == len(one.tokens) + 1
        assert sum(one.token_log_probabilities) == pytest.approx(one.log_probability)
        assert max(one.token_log_probabilities) <= 1e-9


@weights
def test_a_full_width_beam_never_scores_less_than_greedy(make_model: MakeModel, weight: float) -> None:
    model, batch = sharp_model(make_model, 7), (draw_features(5, 7), torch.tensor([5]))
    narrow, wide = (decode(model, *batch, DecodingConfig(beam, weight))[0][0] for beam in (1, 100))
    assert wide.log_probability >= narrow.log_probability - 1e-5


@pytest.mark.parametrize("n_best", [1, 3])
def test_no_frames_give_one_empty_hypothesis(make_model: MakeModel, n_best: int) -> None:
    config = DecodingConfig(beam=3, n_best=n_best)
    found = decode(make_model(), torch.zeros(2, 0, 3), torch.tensor([0, 0]), config)
    assert found == [[Hypothesis((), 0.0, ())]] * 2


@pytest.mark.parametrize(
    ("path", "length", "tokens"),
    [
        ((0, 4, 4, 0, 4, 5, 5), 7, [4, 4, 5]),
        ((4, 4, 4, 5, 5, 4, 0), 7, [4, 5, 4]),
        ((4, 0, 5, 5, 5, 5, 5), 2, [4]),
        ((0, 0, 0, 0, 0, 0, 0), 7, []),
        ((4, 3, 2, 1, 5, 0, 0), 7, [4, 5]),
    ],
)
def test_ctc_greedy_takes_out_repeats_blanks_and_padding(path: tuple[int, ...], length: int, tokens: list[int]) -> None:
    log_probs_BMV = np.eye(6, dtype=np.float32)[[path]]
    assert ctc_greedy(log_probs_BMV, np.array([length])) == [tokens]


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam": 0},
        {"n_best": 0},
        {"ctc_weight": 1.1},
        {"ctc_weight": -0.1},
        {"token_reward": -1},
        {"beam_threshold": 0},
        {"per_state": 0},
        {"token_reward": float("nan")},
        {"beam_threshold": float("nan")},
        {"ctc_slack": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"decoding\."):
        DecodingConfig(**wrong)
