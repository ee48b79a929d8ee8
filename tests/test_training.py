"""A run that is cut off goes on as if it had not been; four utterances are learnt to the last word."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from speechformer.augment import AugmentConfig
from speechformer.beam_search import decode
from speechformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from speechformer.config import load_config
from speechformer.data import Batch, DataConfig, make_batch
from speechformer.decoding import DecodingConfig
from speechformer.errors import ConfigError, TrainingError
from speechformer.features import FeatureConfig, collate, extract
from speechformer.lexicon import Lexicon
from speechformer.model import SpeechTransformer
from speechformer.optimiser import Muon, Optimiser
from speechformer.shape import ModelConfig
from speechformer.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from speechformer.torch_recogniser import TorchRecogniser
from speechformer.training import (
    MAX_BAD_STEPS,
    ScheduleConfig,
    TrainConfig,
    Trainer,
    average_weights,
    ctc_share,
    disagreement,
    exchange_tokens,
    joint_loss,
    learning_rate,
    measure_features,
    train,
)
from speechformer.world import World
from tests.conftest import WORDS, spoken

SMALL = ModelConfig(d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, dropout=0.1)
CLEAN = AugmentConfig(speeds=(1.0,), pad_s=0.0, room=0, noise=0, gain_db=(0.0, 0.0), band_limit=0,
                      time_masks=0, band_masks=0)  # fmt: skip
SHORT = ScheduleConfig(
    n_steps=6, lr=1e-3, warmup_steps=2, decay_steps=3, ctc_only_steps=2, join_steps=2, token_noise=0.2
)


@pytest.fixture
def config(corpus: Path) -> TrainConfig:
    """Return six steps of two batches an epoch, with every kind of randomness on."""
    data = DataConfig(train=corpus / "train", dev=corpus / "dev", batch_s=2.6, noise_share=0.3, n_workers=0)
    return TrainConfig(
        tokenizer=corpus / "tokenizer.model", data=data, model=SMALL, schedule=SHORT, precision="fp32",
        evaluate_every=2, save_every=100, log_every=2, keep_best=2,
    )  # fmt: skip


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.checkpoint.model.parameters()])


def cut_off(trainer: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until a signal comes in the middle of a step, after dropout has drawn."""

    def loss_and_interrupt(*args: Any) -> tuple[Tensor, dict[str, float]]:
        loss = joint_loss(*args)
        if trainer.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr("speechformer.training.joint_loss", loss_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()


@pytest.mark.parametrize("step", [1, 3])
def test_resumed_is_uninterrupted(
    config: TrainConfig, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = Trainer(config, tmp_path / "straight")
    straight.train()
    cut_off(Trainer(config, tmp_path / "cut"), step, monkeypatch)
    resumed = Trainer(config, tmp_path / "cut")
    assert resumed.step == step
    resumed.train()
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.best == straight.best


def test_the_seed_decides_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    runs = []
    for i, seed in enumerate((1, 1, 2)):
        trainer = Trainer(replace(config, seed=seed), tmp_path / str(i))
        batches = trainer.batches()
        for _ in range(2):
            trainer.update(next(batches))
        runs.append(weights(trainer))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_run_begins_with_the_weights_it_is_given(config: TrainConfig, tmp_path: Path) -> None:
    first = Trainer(config, tmp_path / "first")
    save_checkpoint(tmp_path / "model", first.checkpoint)
    second = Trainer(replace(config, seed=2, initial=tmp_path / "model"), tmp_path / "second")
    assert torch.equal(weights(second), weights(first))
    for other in ({"d_ff": 32}, {"window_frames": 8}, {"n_heads": 4}):
        changed = replace(config, initial=tmp_path / "model", model=replace(SMALL, **other))
        with pytest.raises(ConfigError, match="another network"):
            Trainer(changed, tmp_path / "third")


def test_a_run_knows_the_words_that_it_began_with_and_its_own(config: TrainConfig, tmp_path: Path) -> None:
    first = Trainer(config, tmp_path / "first").checkpoint
    assert not len(first.lexicon), "what is trained from nothing has no list of words to hold it back"
    save_checkpoint(tmp_path / "model", replace(first, lexicon=Lexicon(["stop", "please"])))
    second = Trainer(replace(config, initial=tmp_path / "model"), tmp_path / "second").checkpoint
    assert second.lexicon.words == sorted({*WORDS, "please"})


def test_a_run_can_begin_with_the_weights_of_another_vocabulary(
    config: TrainConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first = Trainer(config, tmp_path / "first").checkpoint
    save_checkpoint(tmp_path / "model", first)
    larger = Tokenizer.train([*WORDS, "twofold one hundredfold"] * 3, 90)
    larger.save(tmp_path / "larger.model")
    assert len(larger) > len(tokenizer)
    changed = replace(config, initial=tmp_path / "model", tokenizer=tmp_path / "larger.model")
    second = Trainer(changed, tmp_path / "second").checkpoint
    old, new = first.model.state_dict(), second.model.state_dict()
    sizes = []
    for i, piece in enumerate(larger.pieces(range(len(larger)))):
        ids = tokenizer.split(piece)
        sizes.append(len(ids))
        torch.testing.assert_close(new["decoder.embedding.weight"][i], old["decoder.embedding.weight"][ids].mean(0))
        torch.testing.assert_close(new["ctc_head.bias"][i], old["ctc_head.bias"][ids].mean(0) - int(len(ids) > 1))
    assert min(sizes) == 1 < max(sizes)
    assert torch.equal(new["encoder.embedding.weight"], old["encoder.embedding.weight"])


@torch.no_grad()
def hear(model: SpeechTransformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what both heads make of the same two random utterances."""
    draw = torch.Generator().manual_seed(4)
    features_BTC = torch.randn(2, 40, model.config.n_features, generator=draw)
    memory_BMD, mask_BM = model.eval().encode(features_BTC, torch.tensor([40, 23]))
    logits_BLV, _ = model.decode(torch.tensor([[1, 5, 6], [1, 4, 4]]), model.start_decoding(memory_BMD, mask_BM))
    return model.ctc_logits(memory_BMD), logits_BLV


def test_a_run_can_begin_with_the_weights_of_fewer_layers(config: TrainConfig, tmp_path: Path) -> None:
    shallow = replace(config, model=replace(SMALL, n_encoder_layers=2))
    first = Trainer(shallow, tmp_path / "first").checkpoint
    save_checkpoint(tmp_path / "model", first)
    shape = replace(SMALL, n_encoder_layers=3, n_decoder_layers=2)
    second = Trainer(replace(config, initial=tmp_path / "model", model=shape), tmp_path / "second").checkpoint
    assert second.model.n_parameters() > first.model.n_parameters()
    torch.testing.assert_close(hear(second.model), hear(first.model))
    new = second.model.encoder.layers[1].feed_forward
    assert not new.narrow.weight.any()
    assert torch.equal(new.widen.weight, first.model.encoder.layers[0].feed_forward.widen.weight)
    save_checkpoint(tmp_path / "deeper", second)
    with pytest.raises(ConfigError, match="deeper has another network"):
        Trainer(replace(shallow, initial=tmp_path / "deeper"), tmp_path / "third")


@pytest.mark.parametrize("more", [{"d_ff": 80}, {"d_model": 48, "n_heads": 3}, {"d_model": 64, "n_heads": 4, "d_ff": 96,
                                                                              "n_decoder_layers": 2}])  # fmt: skip
def test_a_run_can_begin_with_the_weights_of_narrower_layers(
    config: TrainConfig, tmp_path: Path, more: dict[str, int]
) -> None:
    trainer = Trainer(config, tmp_path / "first")
    batches = trainer.batches()
    for _ in range(3):  # norms and biases are no longer what they begin as
        trainer.update(next(batches))
    save_checkpoint(tmp_path / "model", trainer.checkpoint)
    wider = replace(config, initial=tmp_path / "model", model=replace(SMALL, **more))
    second = Trainer(wider, tmp_path / "second")
    torch.testing.assert_close(hear(second.checkpoint.model), hear(trainer.checkpoint.model), rtol=1e-3, atol=1e-4)
    narrow = second.checkpoint.model.encoder.layers[0].feed_forward.narrow.weight
    before = narrow.clone()
    second.update(next(second.batches()))
    assert (narrow[-1] != before[-1]).any()  # what is new learns
    assert (narrow[:, -1] != before[:, -1]).any()


def test_a_run_leaves_its_settings_its_history_and_a_model(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path / "run")
    folder = trainer.train()
    assert load_config(TrainConfig, tmp_path / "run" / "config.yaml") == trainer.config
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [(row["step"], row["kind"]) for row in map(json.loads, lines)]
    assert rows == [(2, "train"), (2, "dev"), (4, "train"), (4, "dev"), (6, "train"), (6, "dev"), (6, "dev")]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(list((tmp_path / "run" / "best").iterdir())) == config.keep_best
    assert load_checkpoint(folder).model.config == trainer.config.model


def test_four_utterances_are_learnt_without_an_error(config: TrainConfig, tmp_path: Path) -> None:
    schedule = ScheduleConfig(n_steps=250, lr=3e-3, warmup_steps=20, decay_steps=80, ctc_only_steps=60,
                              join_steps=20, label_smoothing=0.0)  # fmt: skip
    data = replace(config.data, batch_s=10.0, noise_share=0.0, phrase_share=0.0)
    learner = replace(config, augment=CLEAN, data=data, schedule=schedule, evaluate_every=125,
                      model=replace(SMALL, dropout=0.0))  # fmt: skip
    checkpoint = load_checkpoint(train(learner, tmp_path))
    batch = collate([extract(spoken(word), checkpoint.features) for word in WORDS])
    for weight in (0.0, 0.3, 1.0):
        found = decode(TorchRecogniser(checkpoint.model), *batch, DecodingConfig(beam=4, ctc_weight=weight))
        assert [checkpoint.tokenizer.decode(one[0].tokens) for one in found] == list(WORDS)


def test_steps_that_are_not_a_number_are_skipped_and_then_fatal(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path)
    good = next(trainer.batches())
    bad = Batch(good.features_BTC * math.nan, good.frames_B, good.tokens_BL, good.tokens_B)
    before = weights(trainer)
    for _ in range(MAX_BAD_STEPS - 1):
        assert trainer.update(bad) == {"skipped": 1.0}
    assert torch.equal(weights(trainer), before)
    trainer.step = 0  # the schedule is over by now
    assert trainer.update(good)["loss"] > 0
    assert not torch.equal(weights(trainer), before)
    for _ in range(MAX_BAD_STEPS - 1):
        trainer.update(bad)
    with pytest.raises(TrainingError, match="in a row"):
        trainer.update(bad)


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 cut off"])
def test_a_damaged_state_is_a_training_error(config: TrainConfig, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.pt.*cannot be resumed"):
        Trainer(config, tmp_path)


def test_a_run_is_not_resumed_with_another_model(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, tmp_path).save()
    with pytest.raises(
        TrainingError, match=r'"model" is not what the run began with; restore it .* or use a new folder'
    ):
        Trainer(replace(config, model=replace(SMALL, d_ff=128)), tmp_path)
    assert load_config(TrainConfig, tmp_path / "config.yaml").model.d_ff == SMALL.d_ff


def test_a_finished_run_is_not_trained_again(config: TrainConfig, tmp_path: Path) -> None:
    short = replace(config, schedule=replace(config.schedule, n_steps=2))
    train(short, tmp_path)
    with pytest.raises(TrainingError, match=r"is finished; raise schedule\.n_steps"):
        train(short, tmp_path)
    assert load_checkpoint(train(config, tmp_path))


def test_the_learning_rate_climbs_stays_and_falls_to_zero() -> None:
    schedule = ScheduleConfig(n_steps=100, lr=2.0, warmup_steps=10, decay_steps=50)
    rates = [learning_rate(step, schedule) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:51] == [2.0] * 42
    assert rates[75] == pytest.approx(1.0)
    assert rates[100] == 0.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_the_ctc_head_learns_alone_and_then_shares() -> None:
    schedule = ScheduleConfig(ctc_only_steps=10, join_steps=20, ctc_weight=0.3)
    shares = [ctc_share(step, schedule) for step in range(40)]
    assert shares[:11] == [1.0] * 11
    assert shares[20] == pytest.approx(0.65)
    assert shares[30:] == pytest.approx([0.3] * 10)


def a_batch(seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    features = [torch.randn(frames, 3, generator=draw).numpy() for frames in (20, 12)]
    return make_batch(features, [[4, 5, 4], [5]])


PLAIN = ScheduleConfig(label_smoothing=0.0)


def alone(batch: Batch, i: int) -> Batch:
    frames, tokens = int(batch.frames_B[i]), int(batch.tokens_B[i])
    return Batch(batch.features_BTC[i : i + 1, :frames], batch.frames_B[i : i + 1],
                 batch.tokens_BL[i : i + 1, : tokens + 2], batch.tokens_B[i : i + 1])  # fmt: skip


def test_the_loss_of_a_batch_is_made_of_its_utterances(make_model: Callable[..., SpeechTransformer]) -> None:
    model, batch = make_model(), a_batch()
    whole, parts = joint_loss(model, batch, 0.3, PLAIN)
    _, first = joint_loss(model, alone(batch, 0), 0.3, PLAIN)
    _, second = joint_loss(model, alone(batch, 1), 0.3, PLAIN)
    assert parts["ctc"] == pytest.approx((first["ctc"] + second["ctc"]) / 2, rel=1e-5)
    assert parts["attention"] == pytest.approx((4 * first["attention"] + 2 * second["attention"]) / 6, rel=1e-5)
    assert float(whole.detach()) == pytest.approx(0.3 * parts["ctc"] + 0.7 * parts["attention"], rel=1e-5)


def test_exchanged_tokens_are_pieces_in_the_place_of_pieces() -> None:
    tokens_BL = torch.tensor([[BOS, 4, 5, 6, UNK], [BOS, 7, 4, EOS, PAD]])
    assert exchange_tokens(tokens_BL, 0.0, 9) is tokens_BL
    stays_BL = tokens_BL <= UNK
    seen = torch.stack([exchange_tokens(tokens_BL, 1.0, 9) for _ in range(200)])
    assert (seen[:, stays_BL] == tokens_BL[stays_BL]).all()
    assert set(seen[:, ~stays_BL].flatten().tolist()) == {4, 5, 6, 7, 8}
    many_BL = torch.full((100, 100), 4)
    assert float((exchange_tokens(many_BL, 0.25, 1000) != many_BL).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_what_the_decoder_reads_is_exchanged_and_what_it_is_to_write_is_not(
    make_model: Callable[..., SpeechTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_model(), a_batch()
    monkeypatch.setattr("speechformer.training.exchange_tokens", lambda tokens_BL, share, size: tokens_BL.clamp(max=4))
    _, noisy = joint_loss(model, batch, 0.3, replace(PLAIN, token_noise=0.5))
    logits_BLV, _ = model.decode(
        batch.tokens_BL[:, :-1].clamp(max=4), model.start_decoding(*model.encode(batch.features_BTC, batch.frames_B))
    )
    expected = functional.cross_entropy(logits_BLV.transpose(1, 2), batch.tokens_BL[:, 1:], ignore_index=PAD)
    assert noisy["attention"] == pytest.approx(float(expected.detach()), rel=1e-5)


def two_views(log_probs_MBV: Tensor) -> Tensor:
    return disagreement(log_probs_MBV, torch.ones(log_probs_MBV.shape[1::-1], dtype=torch.bool), torch.tensor([2, 2]))


def test_views_that_are_read_alike_cost_nothing_and_others_are_drawn_together() -> None:
    logits_MBV = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert float(two_views(logits_MBV.detach()[:, :1].expand(-1, 2, -1).log_softmax(-1))) == 0
    loss = two_views(logits_MBV.log_softmax(-1))
    one, other = logits_MBV.detach().log_softmax(-1).unbind(1)
    symmetric = ((one.exp() - other.exp()) * (one - other)).sum() / 2
    assert float(loss.detach()) == pytest.approx(float(symmetric) / 2, rel=1e-5)
    loss.backward()
    assert logits_MBV.grad is not None
    # The gradient of a cross-entropy against a fixed target: towards the other's distribution.
    assert torch.allclose(logits_MBV.grad[:, 0] * 4, one.exp() - other.exp(), atol=1e-5)


def test_positions_past_the_end_are_not_compared() -> None:
    log_probs_MBV = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    mask_BM = torch.arange(7).expand(2, 7) < 4
    assert torch.equal(disagreement(log_probs_MBV, mask_BM, torch.tensor([2, 2])), two_views(log_probs_MBV[:4]))


def test_consistency_is_a_part_of_the_loss_and_needs_two_views(make_model: Callable[..., SpeechTransformer]) -> None:
    model, batch = make_model(), a_batch()
    batch = replace(batch, tokens_BL=batch.tokens_BL[:1].expand(2, -1), tokens_B=batch.tokens_B[:1].expand(2))
    batch = replace(batch, frames_B=batch.frames_B[:1].expand(2))
    without, _ = joint_loss(model, batch, 0.3, PLAIN)
    whole, parts = joint_loss(model, batch, 0.3, replace(PLAIN, consistency=0.5))
    assert parts["disagreement"] > 0
    assert float((whole - without).detach()) == pytest.approx(0.3 * 0.5 * parts["disagreement"], rel=1e-4)
    with pytest.raises(ConfigError, match=r"data\.views=2"):
        TrainConfig(schedule=ScheduleConfig(consistency=0.2))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.views=0", "data.views is 1 or more, not 0"),
        ("data.batch_s=.nan", "data.batch_s is more than 0, not nan"),
        ("data.noise_share=1.5", "data.noise_share is between 0 and 1, not 1.5"),
        ("data.weights.an4=-1", "data.weights.an4 is 0 or more, not -1.0"),
        ("schedule.n_steps=0", "schedule.n_steps is 1 or more, not 0"),
        ("schedule.lr=nan", "schedule.lr is more than 0, not nan"),
        ("schedule.warmup_steps=-5", "schedule.warmup_steps is 0 or more, not -5"),
        ("augment.noise=2", "augment.noise is between 0 and 1, not 2.0"),
        ("augment.speeds=[]", "augment.speeds and augment.tempos hold one factor or more"),
        ("augment.speeds=[1, 0]", "augment.speeds is between 0.1 and 10, not 0.0"),
        ("augment.snr_db=[20, 5]", "augment.snr_db is a range, the lower end first, not [20.0, 5.0]"),
        ("augment.band_hz=[4000, 8000]", "augment.band_hz is more than 0 and less than 8000, not 8000.0"),
        ("model.dropout=1", "model.dropout is 0 or more and less than 1, not 1.0"),
        ("model.n_encoder_layers=0", "model.n_encoder_layers is 1 or more, not 0"),
        ("keep_best=0", "keep_best is 1 or more, not 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named_before_anything_is_read(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(TrainConfig, overrides=[override])


def test_weights_of_corpora_that_are_not_there_are_named(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"tones": 1.0, "kokoro": 2.0, "an5": 1.0}
    Trainer(replace(config, data=replace(config.data, weights=weights)), tmp_path / "run")
    assert "has nothing of an5, kokoro; that weight is not used" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"has nothing that weighs more than 0"):
        Trainer(replace(config, data=replace(config.data, weights={"tones": 0.0})), tmp_path / "none")


def test_the_decoder_gets_no_gradient_while_the_ctc_head_learns_alone(
    make_model: Callable[..., SpeechTransformer],
) -> None:
    model = make_model()
    joint_loss(model, a_batch(), 1.0, ScheduleConfig())[0].backward()
    assert all(weight.grad is None for weight in model.decoder.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in model.ctc_head.parameters())


@pytest.mark.parametrize("ctc_weight", [1.0, 0.3])
def test_a_batch_of_silence_and_of_no_frames_has_a_finite_gradient(
    make_model: Callable[..., SpeechTransformer], ctc_weight: float
) -> None:
    model = make_model()
    features = [torch.zeros(frames, 3).numpy() for frames in (8, 0)]
    joint_loss(model, make_batch(features, [[], []]), ctc_weight, ScheduleConfig())[0].backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_biases_norms_and_embeddings_are_not_decayed(make_model: Callable[..., SpeechTransformer]) -> None:
    model = make_model()
    decayed, others = (part.param_groups[0] for part in Optimiser(model, 1e-3, 0.1).parts)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert not [name for name in (names[id(one)] for one in decayed["params"]) if "bias" in name or "norm" in name]
    kept = [names[id(one)] for one in others["params"]]
    assert {"decoder.embedding.weight", "encoder.embedding.weight", "ctc_head.weight"} <= set(kept)


def test_a_step_moves_every_direction_of_a_matrix_alike(make_model: Callable[..., SpeechTransformer]) -> None:
    model = make_model()
    weight = model.encoder.layers[0].feed_forward.widen.weight
    before, optimiser = weight.detach().clone(), Optimiser(model, 1.0, 0.0)
    joint_loss(model, a_batch(), 0.3, ScheduleConfig())[0].backward()
    optimiser.step(lr=1e-2)
    gradient, step = (torch.linalg.svdvals(matrix) for matrix in (weight.grad, weight.detach() - before))
    assert gradient[0] / gradient[9] > 10
    assert step[0] / step[9] < 2
    # The size is AdamW's: about a fifth of the learning rate an entry (Liu et al. 2025, section 2.2).
    assert (weight.detach() - before).square().mean().sqrt() == pytest.approx(2e-3, rel=0.3)


def small_model() -> SpeechTransformer:
    torch.manual_seed(0)
    config = ModelConfig(n_features=3, vocab_size=6, d_model=16, d_ff=32, n_heads=2, n_encoder_layers=1)
    return SpeechTransformer(replace(config, window_frames=4, stride_frames=2, dropout=0.0))


@pytest.mark.parametrize("fast", [True, False])
def test_muon_steps_as_torch_does_in_either_precision(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechformer.optimiser.has_fast_bfloat16", lambda device: fast)
    torch.manual_seed(0)
    first = [torch.randn(24, 96), torch.randn(96, 24), torch.randn(24, 24)]
    ours, theirs = ([torch.nn.Parameter(weight.clone()) for weight in first] for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    both = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimiser in both:
            optimiser.step()
    for one, other, weight in zip(ours, theirs, first, strict=True):
        assert (one - other).abs().max() < 0.03 * (other - weight).abs().max()  # bfloat16 has eight bits
    both[0].load_state_dict(both[1].state_dict())  # what torch's remembered can be taken up


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_left_where_it_is_slow(config: TrainConfig, tmp_path: Path, fast: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("speechformer.training.has_fast_bfloat16", lambda device: fast)
    assert Trainer(replace(config, precision="auto"), tmp_path / "auto").bf16 == fast
    assert Trainer(replace(config, precision="bf16"), tmp_path / "bf16").bf16
    assert not Trainer(config, tmp_path / "fp32").bf16


def take_steps(optimiser: Optimiser, model: SpeechTransformer, world: World, batches: list[Batch], n: int) -> None:
    for _ in range(n):
        optimiser.zero_grad()
        sum(joint_loss(model, batch, 0.3, ScheduleConfig())[0] for batch in batches).div(len(batches)).backward()
        world.average(weight.grad for weight in model.parameters())
        optimiser.step(1e-2)


def train_together(rank: int, port: int, folder: Path) -> None:
    """Be one of two processes: take two steps, save, go on in a new optimiser for one more."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world, model = World("cpu"), small_model()
    optimiser = Optimiser(model, 1e-2, 0.1, world.size)
    take_steps(optimiser, model, world, [a_batch(rank)], 2)
    state = optimiser.state_dict()
    if world.leads:
        torch.save(state, folder / "state.pt")
    world.wait()
    resumed = Optimiser(model, 1e-2, 0.1, world.size)
    resumed.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    take_steps(resumed, model, world, [a_batch(rank)], 1)
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    del optimiser, resumed
    world.leave()


def test_two_processes_take_the_steps_that_one_would(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_together, (port, tmp_path), nprocs=2)
    model = small_model()
    optimiser = Optimiser(model, 1e-2, 0.1)
    take_steps(optimiser, model, World("cpu"), [a_batch(0), a_batch(1)], 2)
    two_steps = torch.load(tmp_path / "state.pt", weights_only=True)  # which one process can take up as well
    alone = Optimiser(model, 1e-2, 0.1)
    alone.load_state_dict(two_steps)
    take_steps(alone, model, World("cpu"), [a_batch(0), a_batch(1)], 1)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in model.state_dict().items():
        assert torch.equal(first[name], second[name])
        if name.endswith("key_value.bias"):
            continue  # what is added to all keys changes nothing: its gradient is rounding, and AdamW takes its sign
        torch.testing.assert_close(first[name], weight, atol=1e-5, rtol=1e-3)


def test_the_average_of_checkpoints_is_the_mean_of_their_weights(
    make_model: Callable[..., SpeechTransformer], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    models = [make_model(seed, vocab_size=len(tokenizer)) for seed in range(3)]
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, model in zip(folders, models, strict=True):
        save_checkpoint(folder, Checkpoint(model, FeatureConfig(n_mfcc=3), tokenizer))
    for key, mean in average_weights(folders).items():
        torch.testing.assert_close(mean, sum(model.state_dict()[key] for model in models) / 3)


@pytest.mark.parametrize("kind", ["mean", "global"])
def test_measured_features_have_the_scale_of_the_training_set(config: TrainConfig, tmp_path: Path, kind: str) -> None:
    trainer = Trainer(replace(config, features=FeatureConfig(normalise=kind)), tmp_path)
    measured = trainer.config.features
    assert len(measured.mean_C) == len(measured.scale_C) == measured.n_mfcc
    frames = torch.cat([torch.from_numpy(extract(spoken(word), measured)) for word in WORDS])
    assert frames.mean(0).abs().max() < 0.3
    assert ((frames.std(0) > 0.7) & (frames.std(0) < 1.3)).all()
    assert measure_features(trainer.training_set) == measured
