"""A model → two ONNX graphs that `onnx_recogniser` computes: the encoder, and a step of the decoder.

With eight bits, matrices are kept as integers with a scale for each output unit, and what is multiplied with them is
rounded as it comes ("dynamic quantisation", Jacob et al. 2018, section 2); the first and the last map stay in float32.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from speechformer.checkpoint import Checkpoint
from speechformer.errors import ConfigError
from speechformer.frontend import Frontend
from speechformer.model import DecoderCache, SpeechTransformer
from speechformer.model_folder import DECODER, ENCODER, FILTERS, replace_file, write_settings
from speechformer.onnx_recogniser import PRECISION, WEIGHTS, decoder_names, encoder_names

Precision = Literal["int8", "fp32"]


class _Encoder(nn.Module):
    """Everything that is done once an utterance."""

    def __init__(self, model: SpeechTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features_BTC: Tensor, frames_B: Tensor) -> tuple[Tensor, ...]:
        memory_BMD, mask_BM = self.model.encode(features_BTC, frames_B)
        cross = self.model.start_decoding(memory_BMD, mask_BM).cross
        return self.model.ctc_logits(memory_BMD).log_softmax(-1), mask_BM, *(part for layer in cross for part in layer)


class _Decoder(nn.Module):
    """One step: a token of each hypothesis."""

    def __init__(self, model: SpeechTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_R: Tensor, mask_BM: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        n_layers = len(pairs) // 2
        cache = DecoderCache(tuple(pairs[:n_layers]), tuple(pairs[n_layers:]), mask_BM)
        logits_RLV, grown = self.model.decode(tokens_R[:, None], cache)
        return logits_RLV[:, -1].log_softmax(-1), *(part for layer in grown.past for part in layer)


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
    step = torch.full((6,), 4), mask_BM, *past, *cross
    free: Any = torch.export.Dim.DYNAMIC
    both = {0: free, 1: free}
    grows = {0: free, 2: free}
    decoder_shapes = {0: free}, both, (grows,) * (len(past) + len(cross))
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
            dynamo=True, external_data=False, verbose=False,
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
