"""The network as the search sees it, computed by ONNX Runtime: starts in a tenth of torch's time, eight bits on a CPU.

`onnx_export` writes the two graphs. Keys and values of each layer of the decoder are tensors of their own, `past` of
hypotheses, (R, H, L, K), and `cross` of utterances, (B, H, M, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from speechformer.decoding import Bools, Floats, Ints, Memory, stack_positions
from speechformer.errors import CheckpointError
from speechformer.model_folder import DECODER, ENCODER
from speechformer.shape import ModelConfig

SLOWER = ["SkipLayerNormFusion"]  # a sum and a normalisation in one kernel take eight times as long as in two
WEIGHTS, PRECISION = "weights_sha256", "precision"  # what the graphs say of themselves


def encoder_names(shape: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the encoder's graph calls its inputs and its outputs."""
    return ("features_BTC", "frames_B"), ("ctc_log_probs_BMV", "mask_BM", *_each_layer(shape, "cross"))


def decoder_names(shape: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the decoder's graph calls its inputs and its outputs."""
    inputs = "tokens_RL", "mask_BM", *_each_layer(shape, "past"), *_each_layer(shape, "cross")
    return inputs, ("log_probs_RLV", *_each_layer(shape, "grown"), "looks_RLHM")


def _each_layer(shape: ModelConfig, name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}_{layer}" for layer in range(shape.n_decoder_layers) for part in ("keys", "values"))


@dataclass(frozen=True)
class OnnxCache:
    """What the decoder need not compute twice."""

    past: tuple[Floats, ...]  # none before the first token
    cross: tuple[Floats, ...]
    mask_BM: Bools

    @property
    def n_utterances(self) -> int:
        """How many utterances are being decoded."""
        return len(self.mask_BM)

    def mean_values(self) -> Floats:
        """Return `values_BD`, the mean over each utterance's positions of the first layer's values, heads in a row."""
        share_BM = (self.mask_BM / np.maximum(self.mask_BM.sum(1, keepdims=True), 1)).astype(np.float32)
        return np.einsum("bhmk,bm->bhk", self.cross[1], share_BM).reshape(len(share_BM), -1)

    def select(self, rows: Ints, utterances: Ints | None = None) -> OnnxCache:
        """Return the cache of chosen hypotheses, repeated or reordered, and of chosen utterances (all, if None)."""
        past = self.past
        if past and (len(rows) != len(past[0]) or (rows != np.arange(len(rows))).any()):
            past = tuple(part[rows] for part in past)
        if utterances is None:
            return OnnxCache(past, self.cross, self.mask_BM)
        return OnnxCache(past, tuple(part[utterances] for part in self.cross), self.mask_BM[utterances])

    @classmethod
    def join(cls, parts: Sequence[tuple[OnnxCache, Ints]], n_positions: int, n_tokens: int = 0) -> OnnxCache:
        """Return one cache of chosen utterances of several, one hypothesis each: of the first tokens that were read."""
        mask_BM = stack_positions([(cache.mask_BM, rows) for cache, rows in parts], 1, n_positions)
        cross = zip(*([(one, rows) for one in cache.cross] for cache, rows in parts), strict=True)
        past = zip(*([(one, rows) for one in cache.past if n_tokens] for cache, rows in parts), strict=True)
        return cls(
            tuple(stack_positions(layer, 2, n_tokens) for layer in past),
            tuple(stack_positions(layer, 2, n_positions) for layer in cross),
            mask_BM,
        )


class OnnxRecogniser:
    """A `decoding.Recogniser` from a folder's two graphs; `threads` of each step, all cores if None.

    Raises CheckpointError for graphs that are missing, damaged, or of another model than the folder's settings.
    """

    def __init__(self, folder: Path, shape: ModelConfig, threads: int | None = None) -> None:
        self.decoder_inputs, self.decoder_outputs = decoder_names(shape)
        self.encoder_inputs, encoder_outputs = encoder_names(shape)
        self.encoder = _session(folder / ENCODER, self.encoder_inputs, encoder_outputs, threads)
        self.decoder = _session(folder / DECODER, self.decoder_inputs, self.decoder_outputs, threads)
        properties = self.encoder.get_modelmeta().custom_metadata_map
        self.weights, self.precision = properties.get(WEIGHTS, ""), properties.get(PRECISION, "")
        widths = self.encoder.get_inputs()[0].shape[-1], self.decoder.get_outputs()[0].shape[-1]
        if widths != (shape.n_features, shape.vocab_size):
            raise CheckpointError(f"{folder / ENCODER}: is of another model than config.json; export the model again")

    def listen(self, features_BTC: Floats, frames_B: Ints) -> Memory:
        """Encode a batch."""
        values = dict(zip(self.encoder_inputs, (features_BTC, frames_B), strict=True))
        log_probs_BMV, mask_BM, *cross = self.encoder.run(None, values)
        return Memory(log_probs_BMV, mask_BM.sum(1), OnnxCache((), tuple(cross), mask_BM))

    def read(self, tokens_RL: Ints, cache: OnnxCache) -> tuple[Floats, OnnxCache]:
        """Read more tokens of each hypothesis."""
        log_probs_RLV, *grown = self._step(self.decoder_outputs[:-1], tokens_RL, cache)
        return log_probs_RLV, OnnxCache(tuple(grown), cache.cross, cache.mask_BM)

    def look(self, tokens_RL: Ints, cache: OnnxCache) -> Floats:
        """Return where cross-attention looks while such tokens are read."""
        (looks_RLHM,) = self._step(self.decoder_outputs[-1:], tokens_RL, cache)
        return looks_RLHM

    def _step(self, outputs: tuple[str, ...], tokens_RL: Ints, cache: OnnxCache) -> list[Floats]:
        past = cache.past
        if not past:
            _, n_heads, _, width = cache.cross[0].shape
            past = (np.zeros((len(tokens_RL), n_heads, 0, width), np.float32),) * len(cache.cross)
        values = dict(zip(self.decoder_inputs, (tokens_RL, cache.mask_BM, *past, *cache.cross), strict=True))
        stepped: list[Floats] = self.decoder.run(outputs, values)
        return stepped


def _session(path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # what fails is raised
    # Threads that wait in a loop for the next of many small operations take the cores from the rest of the search: with
    # two of them on two cores, everything takes twice as long as with one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # From bytes, so that a graph cannot name other files to read.
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
    except OSError as error:
        raise CheckpointError(f"{path}: is missing; write it with: speechformer export --onnx") from error
    except Exception as error:  # ONNX Runtime's own errors share no base but this
        raise CheckpointError(f"{path}: is damaged or no ONNX graph; export the model again") from error
    names = tuple(one.name for one in session.get_inputs()), tuple(one.name for one in session.get_outputs())
    if names != (inputs, outputs):
        raise CheckpointError(
            f"{path}: is of another model than config.json, or no graph of this program's; export the model again"
        )
    return session
