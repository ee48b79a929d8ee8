"""A model → two ONNX graphs that `onnx_recogniser` computes: the encoder, and a step of the decoder.

With eight bits, matrices are kept as integers with a scale for each output unit, and what is multiplied with them is
rounded as it comes ("dynamic quantisation", Jacob et al. 2018, section 2); the first and the last map stay in float32.

The layers are written down once more, in the operations that ONNX Runtime has kernels for (attention, rotary positions)
and with maps of the same input joined: the encoder takes 15 % less time than as torch's own operations. Tests hold
them to what `model` computes.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, cast, get_args

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx import ops

from speechformer.checkpoint import Checkpoint
from speechformer.errors import ConfigError
from speechformer.files import replace_file
from speechformer.frontend import Frontend
from speechformer.model import Attention, DecoderLayer, EncoderLayer, FeedForward, SpeechTransformer, seen_keys
from speechformer.model_folder import DECODER, ENCODER, FILTERS, write_settings
from speechformer.onnx_recogniser import PRECISION, WEIGHTS, decoder_names, encoder_names

Precision = Literal["int8", "fp32"]


Table = tuple[Tensor, Tensor, Tensor] | None  # cosines, sines, positions


class _Encoder(nn.Module):
    """Everything that is done once an utterance."""

    def __init__(self, model: SpeechTransformer) -> None:
        super().__init__()
        self.model = model
        self.layers = nn.ModuleList(_EncoderLayer(cast(EncoderLayer, layer)) for layer in model.encoder.layers)

    def forward(self, features_BTC: Tensor, frames_B: Tensor) -> tuple[Tensor, ...]:
        encoder = self.model.encoder
        x_BMD, mask_BM = encoder.begin(features_BTC, frames_B, self.model.rotary)
        table = _table(self.model, x_BMD)
        # Floats for every query: ONNX's kernel takes no fewer, and booleans are slower.
        hidden_B1MM = _hidden(seen_keys(mask_BM)).expand(-1, 1, x_BMD.shape[1], -1)
        for layer in self.layers:
            x_BMD = layer(x_BMD, hidden_B1MM, table)
        memory_BMD = encoder.norm(x_BMD) * mask_BM[..., None]
        cross = self.model.start_decoding(memory_BMD, mask_BM).cross
        return self.model.ctc_logits(memory_BMD).log_softmax(-1), mask_BM, *(part for layer in cross for part in layer)


class _Layer(nn.Module):
    """What the layers of encoder and decoder share: self-attention from one product, and the feed-forward maps."""

    def __init__(self, layer: EncoderLayer | DecoderLayer) -> None:
        super().__init__()
        self.layer, self.n_heads = layer, layer.attention.n_heads
        self.query_key_value = _joined(_scaled(layer.attention), layer.attention.key_value)
        self.feed_forward = _FeedForward(layer.feed_forward)

    def attend(self, x_BLD: Tensor, table: Table, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return `x_BLD` after self-attention, and all keys and values; `others`: what hides keys, and past ones."""
        query, key, value = self.query_key_value(self.layer.attention_norm(x_BLD)).chunk(3, dim=-1)
        query, key = _rotate(query, table, self.n_heads), _rotate(key, table, self.n_heads)
        seen, keys, values, _ = ops.attention(
            query, key, value, *others, q_num_heads=self.n_heads, kv_num_heads=self.n_heads, scale=1.0
        )
        return x_BLD + self.layer.attention.output(seen), keys, values


class _EncoderLayer(_Layer):
    """`model.EncoderLayer` as fewer and larger operations."""

    def forward(self, x_BMD: Tensor, hidden_B1MM: Tensor, table: Table) -> Tensor:
        x_BMD, _, _ = self.attend(x_BMD, table, hidden_B1MM)
        return x_BMD + self.feed_forward(self.layer.feed_forward_norm(x_BMD))


class _FeedForward(nn.Module):
    """`model.FeedForward` with its scales put on the weights once and for all."""

    def __init__(self, feed_forward: FeedForward) -> None:
        super().__init__()
        self.widen = _linear(
            feed_forward.widen.weight * feed_forward.SCALE, feed_forward.widen.bias * feed_forward.SCALE
        )
        self.narrow = _linear(feed_forward.narrow.weight / feed_forward.SCALE, feed_forward.narrow.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.narrow(functional.silu(self.widen(x_BLD)))


class _Decoder(nn.Module):
    """One step: as many tokens of each hypothesis."""

    def __init__(self, model: SpeechTransformer) -> None:
        super().__init__()
        self.model = model
        self.layers = nn.ModuleList(_DecoderLayer(cast(DecoderLayer, layer)) for layer in model.decoder.layers)

    def forward(self, tokens_RL: Tensor, mask_BM: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        decoder, pairs = self.model.decoder, list(zip(parts[::2], parts[1::2], strict=True))
        n_layers = len(self.layers)
        start = parts[0].shape[2]
        x_RLD = decoder.begin(tokens_RL, start, self.model.rotary)
        table, grown, looks = _table(self.model, x_RLD, start), [], []
        hidden_B11M, n_new = _hidden(mask_BM), tokens_RL.shape[1]
        later_LS = torch.arange(start + n_new) > torch.arange(start, start + n_new)[:, None]
        hidden_LS = torch.zeros(later_LS.shape).masked_fill(later_LS, -1e9)
        for layer, past, cross in zip(self.layers, pairs[:n_layers], pairs[n_layers:], strict=True):
            x_RLD, keys, values, looks_BHWM = layer(x_RLD, past, cross, hidden_LS, hidden_B11M, table)
            grown += [keys, values]
            looks.append(looks_BHWM.transpose(1, 2).reshape(*tokens_RL.shape, -1, mask_BM.shape[1]))
        return decoder.end(x_RLD).log_softmax(-1), *grown, torch.cat(looks, 2)


class _DecoderLayer(_Layer):
    """`model.DecoderLayer` as fewer and larger operations."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__(layer)
        self.query = _scaled(layer.cross_attention)

    def forward(
        self,
        x_RLD: Tensor,
        past: tuple[Tensor, Tensor],
        cross: tuple[Tensor, Tensor],
        hidden_LS: Tensor,
        hidden_B11M: Tensor,
        table: Table,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layer = cast(DecoderLayer, self.layer)
        x_RLD, keys, values = self.attend(x_RLD, table, hidden_LS, *past)
        # The hypotheses of one utterance look into the same memory, as if they were one long text.
        normed = layer.cross_norm(x_RLD).view(cross[0].shape[0], -1, x_RLD.shape[-1])
        query_BHWK = layer.cross_attention.heads(self.query(normed))
        # As a formula: ONNX's attention tells where it looks as well, but a step then takes 1.1 to 1.3 times as long.
        keys_BHMK, values_BHMK = cross
        looks_BHWM = (query_BHWK @ keys_BHMK.transpose(-1, -2) + hidden_B11M).softmax(-1)
        seen = looks_BHWM @ values_BHMK
        seen = layer.cross_attention.output(seen.transpose(1, 2).flatten(2))
        x_RLD = x_RLD + seen.view_as(x_RLD)
        return x_RLD + self.feed_forward(layer.feed_forward_norm(x_RLD)), keys, values, looks_BHWM


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    return linear


def _scaled(attention: Attention) -> nn.Linear:
    """Return the map to queries with attention's factor in it: products with a factor have no fast kernel."""
    scale = (attention.query.out_features // attention.n_heads) ** -0.5
    return _linear(attention.query.weight * scale, attention.query.bias * scale)


def _joined(*maps: nn.Linear) -> nn.Linear:
    return _linear(torch.cat([one.weight for one in maps]), torch.cat([one.bias for one in maps]))


def _table(model: SpeechTransformer, x_BLD: Tensor, start: Any = 0) -> Table:
    if model.rotary is None:
        return None
    cos, sin = (table.chunk(2, dim=-1)[0] for table in model.rotary(start, x_BLD.shape[1]))
    positions_BL = torch.arange(x_BLD.shape[1]).expand(x_BLD.shape[:2])
    return cos, sin, positions_BL


def _rotate(x_BLD: Tensor, table: Table, n_heads: int) -> Tensor:
    return x_BLD if table is None else ops.rotary_embedding(x_BLD, *table, num_heads=n_heads)


def _hidden(seen_BM: Tensor) -> Tensor:
    """Return what is added to attention's scores, `hidden_B11M`: nothing where there is sound."""
    return torch.zeros(seen_BM.shape).masked_fill(~seen_BM, -1e9)[:, None, None]


def weights_digest(model: SpeechTransformer) -> str:
    """Return what tells one set of weights from another."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def export(checkpoint: Checkpoint, folder: Path, precision: Precision = "int8") -> None:
    """Write a folder that is computed without torch: graphs, filters and settings, each replaced atomically."""
    if precision not in get_args(Precision):
        raise ConfigError(f"the precision of an export is int8 or fp32, not {precision!r}")
    model, config = checkpoint.model, checkpoint.model.config
    write_settings(folder, checkpoint.settings)
    replace_file(folder / FILTERS, Frontend.made_by_librosa(checkpoint.features).save)
    # The sizes of the examples differ from each other, so that none is taken for another.
    batch = torch.randn(2, 96, config.n_features), torch.tensor([96, 60])
    encoder, decoder = _Encoder(model), _Decoder(model)
    _, mask_BM, *cross = (part.contiguous() for part in encoder(*batch))
    past = [torch.randn(6, config.n_heads, 5, config.d_model // config.n_heads) for _ in cross]
    step = torch.full((6, 3), 4), mask_BM, *past, *cross
    free: Any = torch.export.Dim.DYNAMIC
    both = {0: free, 1: free}
    grows = {0: free, 2: free}
    decoder_shapes = both, both, (grows,) * (len(past) + len(cross))
    outer = {config.window_frames * config.n_features, config.vocab_size}
    properties = {WEIGHTS: weights_digest(model), PRECISION: precision}
    _export(encoder, batch, (both, {0: free}), encoder_names(config), folder / ENCODER, properties, outer)
    _export(decoder, step, decoder_shapes, decoder_names(config), folder / DECODER, properties, outer)


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    path: Path,
    properties: dict[str, str],
    outer: set[int],
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, small = Path(scratch) / "whole.onnx", Path(scratch) / "small.onnx"
        torch.onnx.export(
            module, example, whole, input_names=names[0], output_names=names[1], dynamic_shapes=shapes,
            opset_version=23, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        if properties[PRECISION] == "int8":
            logging.getLogger().setLevel(max(logging.ERROR, logging.getLogger().level))
            quantize_dynamic(
                whole,
                small,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=_outer(onnx.load(whole), outer),
            )
            whole = small
        graph = onnx.load(whole)
        for key, value in properties.items():
            graph.metadata_props.add(key=key, value=value)
        replace_file(path, lambda unfinished: onnx.save(graph, unfinished))


def _outer(graph: Any, widths: set[int]) -> list[str]:
    """Name the products with a matrix that one of these widths is a side of."""
    outer = {one.name for one in graph.graph.initializer if len(one.dims) == 2 and widths & {*one.dims}}
    return [node.name for node in graph.graph.node if node.op_type == "MatMul" and outer & {*node.input}]
