"""The transformer: neither company, nor a cache, nor what comes later changes what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from speechformer.errors import ConfigError
from speechformer.model import Dropout, SpeechTransformer, attend, mask_from_lengths
from speechformer.shape import ModelConfig
from tests.conftest import misnamed

MakeModel = Callable[..., SpeechTransformer]
pytestmark = pytest.mark.usefixtures("shapes")
both_positions = pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
FRAMES = (9, 14, 1, 0, 6)


def draw_batch(frames: tuple[int, ...] = FRAMES, n_features: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    frames_B = torch.tensor(frames)
    features_BTC = torch.randn(len(frames), max(frames), n_features, generator=draw)
    return features_BTC * mask_from_lengths(frames_B, max(frames))[..., None], frames_B


def draw_tokens(n_utterances: int, n_tokens: int = 7) -> Tensor:
    return torch.randint(0, 6, (n_utterances, n_tokens), generator=torch.Generator().manual_seed(2))


def decode_all(model: SpeechTransformer, features_BTC: Tensor, frames_B: Tensor, tokens_BL: Tensor) -> Tensor:
    cache = model.start_decoding(*model.encode(features_BTC, frames_B))
    return model.decode(tokens_BL, cache)[0]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@both_positions
def test_an_utterance_alone_is_what_it_is_in_a_padded_batch(make_model: MakeModel, positions: str) -> None:
    model = make_model(positions=positions)
    features_BTC, frames_B = draw_batch()
    tokens_BL = draw_tokens(len(FRAMES))
    memory_BMD, mask_BM = model.encode(features_BTC, frames_B)
    logits_BLV = decode_all(model, features_BTC, frames_B, tokens_BL)
    for i, frames in enumerate(FRAMES):
        if not frames:
            continue  # an utterance of nothing has nothing to compare
        alone_BTC = features_BTC[i : i + 1, :frames]
        memory_1MD, _ = model.encode(alone_BTC, frames_B[i : i + 1])
        close(memory_BMD[i, mask_BM[i]], memory_1MD[0])
        close(model.ctc_logits(memory_BMD)[i, mask_BM[i]], model.ctc_logits(memory_1MD)[0])
        close(logits_BLV[i], decode_all(model, alone_BTC, frames_B[i : i + 1], tokens_BL[i : i + 1])[0])


def test_garbage_in_padding_changes_nothing(make_model: MakeModel) -> None:
    model, (features_BTC, frames_B), tokens_BL = make_model(), draw_batch(), draw_tokens(len(FRAMES))
    real = mask_from_lengths(frames_B, features_BTC.shape[1])[..., None]
    garbage_BTC = torch.where(real, features_BTC, torch.tensor(1e3))
    for clean, dirty in zip(model.encode(features_BTC, frames_B), model.encode(garbage_BTC, frames_B), strict=True):
        assert torch.equal(clean, dirty)
    clean_BLV = decode_all(model, features_BTC, frames_B, tokens_BL)
    assert torch.equal(clean_BLV, decode_all(model, garbage_BTC, frames_B, tokens_BL))


def test_memory_beyond_the_end_is_zero(make_model: MakeModel) -> None:
    memory_BMD, mask_BM = make_model().encode(*draw_batch())
    assert not memory_BMD[~mask_BM].any()
    assert (memory_BMD[mask_BM].abs().sum(-1) > 0).all()


@both_positions
@pytest.mark.parametrize("chunks", [(1,) * 7, (3, 1, 2, 1), (5, 2)])
def test_cached_logits_are_the_uncached_ones(make_model: MakeModel, positions: str, chunks: tuple[int, ...]) -> None:
    model, batch, tokens_BL = make_model(positions=positions), draw_batch(), draw_tokens(len(FRAMES))
    cache, parts = model.start_decoding(*model.encode(*batch)), []
    for tokens in tokens_BL.split(chunks, dim=1):
        logits_BLV, cache = model.decode(tokens, cache)
        parts.append(logits_BLV)
    assert cache.n_tokens == 7
    close(torch.cat(parts, dim=1), decode_all(model, *batch, tokens_BL))


@both_positions
def test_the_future_is_not_seen(make_model: MakeModel, positions: str) -> None:
    model, batch, tokens_BL = make_model(positions=positions), draw_batch(), draw_tokens(len(FRAMES))
    changed_BL = tokens_BL.clone()
    changed_BL[:, 4] = (tokens_BL[:, 4] + 1) % 6
    before_BLV, after_BLV = (decode_all(model, *batch, tokens) for tokens in (tokens_BL, changed_BL))
    close(after_BLV[:, :4], before_BLV[:, :4])
    assert ((after_BLV[:, 4:] - before_BLV[:, 4:]).abs().amax(-1) > 1e-4).all()


@both_positions
def test_the_order_of_words_and_of_sounds_matters(make_model: MakeModel, positions: str) -> None:
    model, (features_BTC, frames_B) = make_model(positions=positions), draw_batch((12,))
    one_1L, other_1L = torch.tensor([[1, 4, 5, 4]]), torch.tensor([[1, 5, 4, 4]])
    last = [decode_all(model, features_BTC, frames_B, tokens)[0, -1] for tokens in (one_1L, other_1L)]
    assert (last[0] - last[1]).abs().max() > 1e-4
    same_BTC = torch.ones_like(features_BTC)
    same_BTC[:, :4] = 2
    means = [model.encode(features, frames_B)[0].mean(1) for features in (same_BTC, same_BTC.roll(4, 1))]
    assert (means[0] - means[1]).abs().max() > 1e-4


def test_rotary_attention_depends_on_distance_only(make_model: MakeModel) -> None:
    model = make_model()
    attention, x_BLD = model.encoder.layers[0].attention, torch.randn(1, 5, 16)
    outputs = []
    for start in (0, 11):
        keys, values = attention.keys_values(x_BLD, model.rotary(start, 5))
        outputs.append(attention(x_BLD, keys, values, rotary=model.rotary(start, 5)))
    close(outputs[0], outputs[1])


def test_selected_rows_of_a_cache_go_on_as_themselves(make_model: MakeModel) -> None:
    model, batch, tokens_BL = make_model(), draw_batch(), draw_tokens(len(FRAMES))
    rows = torch.tensor([4, 0, 0])
    _, cache = model.decode(tokens_BL[:, :3], model.start_decoding(*model.encode(*batch)))
    selected_BLV, _ = model.decode(tokens_BL[rows, 3:], cache.select(rows, rows))
    whole_BLV, _ = model.decode(tokens_BL[:, 3:], cache)
    close(selected_BLV, whole_BLV[rows])


def test_hypotheses_of_one_utterance_share_its_memory(make_model: MakeModel) -> None:
    model, batch = make_model(), draw_batch()
    utterances, hypotheses = torch.tensor([1, 3]), torch.tensor([1, 1, 3, 3])
    tokens_BL = draw_tokens(len(hypotheses))
    memory_BMD, mask_BM = model.encode(*batch)
    apart_BLV, _ = model.decode(tokens_BL, model.start_decoding(memory_BMD[hypotheses], mask_BM[hypotheses]))
    shared = model.start_decoding(memory_BMD, mask_BM).select(hypotheses, utterances)
    begin_BLV, shared = model.decode(tokens_BL[:, :3], shared)
    swapped = torch.tensor([1, 0, 3, 2])
    end_BLV, _ = model.decode(tokens_BL[swapped, 3:], shared.select(swapped))
    close(begin_BLV, apart_BLV[:, :3])
    close(end_BLV, apart_BLV[swapped, 3:])


@pytest.mark.parametrize("shape", ["self", "causal", "padded"])
def test_the_cpu_training_formula_is_scaled_dot_product_attention(shape: str) -> None:
    torch.manual_seed(0)
    masks = {
        "self": None,
        "causal": torch.ones(5, 5, dtype=torch.bool).tril(),
        "padded": mask_from_lengths(torch.tensor([5, 2]), 5)[:, None, None],
    }
    mask = masks[shape]
    inputs = [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]
    copies = [one.detach().clone().requires_grad_() for one in inputs]
    ours = attend(*inputs, mask)
    theirs = functional.scaled_dot_product_attention(*copies, attn_mask=mask)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    close(ours, theirs)
    for our, their in zip(inputs, copies, strict=True):
        close(our.grad, their.grad)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(401, 1001))
    n = dropped.numel()
    assert abs(float((dropped == 0).float().mean()) - rate) < 1 / 512 + 5 * math.sqrt(rate * (1 - rate) / n)
    assert abs(float(dropped.mean()) - 1) < 0.01
    assert len(dropped.unique()) == 2


def test_dropout_is_off_in_inference_and_at_rate_zero() -> None:
    x = torch.randn(10, 10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_training_mode_drops_and_inference_mode_does_not(make_model: MakeModel) -> None:
    model, batch = make_model(dropout=0.3), draw_batch()
    assert torch.equal(model.encode(*batch)[0], model.encode(*batch)[0])
    model.train()
    assert not torch.equal(model.encode(*batch)[0], model.encode(*batch)[0])


def test_embedding_and_output_are_one_parameter(make_model: MakeModel) -> None:
    model = make_model()
    with_vocabulary = [name for name, weight in model.named_parameters() if weight.shape == (6, 16)]
    assert sorted(with_vocabulary) == ["ctc_head.weight", "decoder.embedding.weight"]
    wider = make_model(vocab_size=7)
    assert wider.n_parameters() - model.n_parameters() == 16 + 17  # one embedding, one row of the CTC head


@pytest.mark.parametrize(("window", "stride"), [(12, 4), (4, 2), (8, 4), (3, 1), (4, 4)])
def test_n_positions_is_the_real_count(make_model: MakeModel, window: int, stride: int) -> None:
    model = make_model(window_frames=window, stride_frames=stride)
    for frames in range(30):
        memory_BMD, mask_BM = model.encode(torch.ones(1, frames, 3), torch.tensor([frames]))
        assert int(mask_BM.sum()) == model.config.n_positions(frames)
        assert mask_BM.all() == (frames > 0 and model.config.n_positions(frames) > 0)
        assert memory_BMD.shape[:2] == mask_BM.shape


@pytest.mark.parametrize("frames", [(0,), (0, 5)])
def test_no_frames_give_numbers_and_finite_gradients(make_model: MakeModel, frames: tuple[int, ...]) -> None:
    model = make_model().train()
    memory_BMD, mask_BM = model.encode(torch.zeros(len(frames), max(frames), 3), torch.tensor(frames))
    logits_BLV, _ = model.decode(draw_tokens(len(frames)), model.start_decoding(memory_BMD, mask_BM))
    (logits_BLV.sum() + model.ctc_logits(memory_BMD).sum()).backward()
    assert not mask_BM[0].any()
    assert logits_BLV.isfinite().all()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 10, "n_heads": 4},
        {"d_model": 12, "n_heads": 4},
        {"window_frames": 10},
        {"n_heads": 0},
        {"stride_frames": 0},
    ],
)
def test_shapes_that_do_not_fit_are_config_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\."):
        ModelConfig(**changes)


def test_the_shape_check_finds_wrong_names() -> None:
    right = {"x_BLD": torch.zeros(2, 3, 4), "mask_B11M": torch.zeros(2, 1, 1, 5), "size": torch.zeros(1)}
    wrong = {"x_BL": torch.zeros(2, 3, 4), "mask_B1M": torch.zeros(2, 2, 5)}
    assert misnamed(right) == []
    assert len(misnamed(wrong)) == 2
