"""Hypotheses with fewer wrong words become more probable, and nothing else is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from speechformer import minimum_wer
from speechformer.beam_search import decode
from speechformer.data import Batch, make_batch
from speechformer.decoding import Hypothesis
from speechformer.errors import ConfigError
from speechformer.metrics import count_errors
from speechformer.minimum_wer import SEARCH, expected_errors, minimum_wer_loss
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import BOS, EOS, Tokenizer
from speechformer.torch_recogniser import TorchRecogniser
from speechformer.training import ScheduleConfig, TrainConfig, Trainer
from tests.test_training import SHORT, alone, config, cut_off, weights

__all__ = ["config"]  # the fixture


@pytest.fixture
def model(make_model: Callable[..., SpeechTransformer], tokenizer: Tokenizer) -> SpeechTransformer:
    return make_model(vocab_size=len(tokenizer))


@pytest.fixture
def batch(tokenizer: Tokenizer) -> Batch:
    """Return three utterances, the last of which says nothing."""
    draw = torch.Generator().manual_seed(3)
    features = [torch.randn(frames, 3, generator=draw).numpy() for frames in (24, 12, 30)]
    return make_batch(features, [tokenizer.encode("go left"), tokenizer.encode("stop"), []])


def test_the_loss_is_that_of_the_paper_over_what_the_search_finds(
    model: SpeechTransformer, batch: Batch, tokenizer: Tokenizer
) -> None:
    wanted = []
    for i, said in enumerate(("go left", "stop")):
        one = alone(batch, i)
        (found,) = decode(TorchRecogniser(model), one.features_BTC.numpy(), one.frames_B.numpy(), SEARCH)
        assert len(found) == SEARCH.n_best
        memory_BMD, mask_BM = model.encode(one.features_BTC, one.frames_B)
        log_probs = []
        for hypothesis in found:
            read_BL = torch.tensor([[BOS, *hypothesis.tokens]])
            logits_BLV, _ = model.decode(read_BL, model.start_decoding(memory_BMD, mask_BM))
            target_L = torch.tensor([*hypothesis.tokens, EOS])
            log_probs.append(-functional.cross_entropy(logits_BLV[0], target_L, reduction="sum"))
        shares_W = torch.stack(log_probs).softmax(0)
        wrong_W = torch.tensor([count_errors(said, tokenizer.decode(one.tokens)).word_errors for one in found]).float()
        wanted.append(float((shares_W * (wrong_W - wrong_W.mean())).sum().detach()))
    loss = minimum_wer_loss(model, batch, tokenizer, n_utterances=8)
    assert float(loss.detach()) == pytest.approx(sum(wanted) / 2, abs=1e-5)


def test_what_is_missing_or_equally_wrong_is_not_compared() -> None:
    log_probs_AW = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, -9.0]], requires_grad=True)
    loss = expected_errors(log_probs_AW, torch.tensor([[2.0, 2.0, 2.0], [0.0, 3.0, torch.nan]]))
    assert float(loss.detach()) == pytest.approx(0.0)  # both of the second are as probable, so it is their mean
    loss.backward()
    assert log_probs_AW.grad is not None
    torch.testing.assert_close(log_probs_AW.grad, torch.tensor([[0.0, 0.0, 0.0], [-0.375, 0.375, 0.0]]))


def test_an_utterance_of_which_nothing_was_found_costs_nothing() -> None:
    log_probs_AW = torch.zeros(2, 2, requires_grad=True)
    loss = expected_errors(log_probs_AW, torch.tensor([[torch.nan, torch.nan], [1.0, torch.nan]]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert log_probs_AW.grad is not None
    assert not log_probs_AW.grad.any()


def test_trust_moves_to_the_better_hypothesis(
    model: SpeechTransformer, batch: Batch, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, right, wrong = alone(batch, 0), tokenizer.encode("go left"), tokenizer.encode("stop")
    found = [[Hypothesis(tuple(right), 0.0, ()), Hypothesis(tuple(wrong), 0.0, ())]]
    monkeypatch.setattr(minimum_wer, "_hypotheses", lambda *_: found)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = minimum_wer_loss(model, one, tokenizer, 1)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    # One of the two is right, the other has two errors: 1 is all trust in the wrong one, -1 all in the right one.
    assert 0.5 < losses[0] < 1
    assert -1 < losses[-1] < -0.5


def test_silence_alone_costs_nothing_and_training_goes_on_in_the_same_mode(
    model: SpeechTransformer, batch: Batch, tokenizer: Tokenizer
) -> None:
    assert float(minimum_wer_loss(model, alone(batch, 2), tokenizer, 4)) == 0
    model.train()
    assert minimum_wer_loss(model, batch, tokenizer, 4).requires_grad
    assert model.training


def test_it_is_a_part_of_the_loss_and_resumed_is_uninterrupted(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, schedule=replace(SHORT, minimum_wer=0.5, minimum_wer_utterances=1))
    straight = Trainer(config, tmp_path / "straight")
    straight.train()
    rows = map(json.loads, (tmp_path / "straight" / "metrics.jsonl").read_text("utf-8").splitlines())
    learnt = {row["step"]: "minimum_wer" in row for row in rows if row["kind"] == "train"}
    assert learnt == {2: False, 4: True, 6: True}  # while the CTC head learns alone, the decoder knows nothing
    without = Trainer(replace(config, schedule=SHORT), tmp_path / "without")
    without.train()
    assert not torch.equal(weights(straight), weights(without))
    cut_off(Trainer(config, tmp_path / "cut"), 3, monkeypatch)
    resumed = Trainer(config, tmp_path / "cut")
    resumed.train()
    assert torch.equal(weights(resumed), weights(straight))


def test_no_hypotheses_are_not_learnt_from() -> None:
    with pytest.raises(ConfigError, match=r"minimum_wer_utterances is 1 or more, not 0"):
        TrainConfig(schedule=ScheduleConfig(minimum_wer=0.1, minimum_wer_utterances=0))
