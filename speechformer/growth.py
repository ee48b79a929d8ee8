"""What a model has learnt, carried over to one with another vocabulary, with wider layers or with more of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from speechformer.checkpoint import Checkpoint
from speechformer.errors import ConfigError
from speechformer.model import SpeechTransformer
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer

CTC_HEAD = "ctc_head.bias"
WHERE_LAYERS_WRITE = ("attention.output", "cross_attention.output", "feed_forward.narrow")


def grow(old: Checkpoint, shape: ModelConfig, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Return the weights that a network of `shape` begins with so that it computes what the old one does.

    Dropout and vocabulary may differ, the layers may be wider (more heads, of the same width) and the stacks deeper;
    raise ConfigError where anything else differs, or where something is smaller.
    """
    was = old.model.config
    stacks = {"encoder": (was.n_encoder_layers, shape.n_encoder_layers),
              "decoder": (was.n_decoder_layers, shape.n_decoder_layers)}  # fmt: skip
    grown = replace(was, dropout=shape.dropout, vocab_size=shape.vocab_size, d_model=shape.d_model, d_ff=shape.d_ff,
                    n_heads=shape.n_heads, n_encoder_layers=shape.n_encoder_layers,
                    n_decoder_layers=shape.n_decoder_layers)  # fmt: skip
    smaller = any(n_old > n_new for n_old, n_new in stacks.values())
    smaller |= was.d_model > shape.d_model or was.d_ff > shape.d_ff
    if grown != shape or smaller or was.d_model * shape.n_heads != shape.d_model * was.n_heads:
        raise ConfigError("another network than this run's; take model.* from its config.json, or more of it")
    weights = old.model.state_dict()
    if old.tokenizer.model != tokenizer.model:
        weights = respell(weights, old.tokenizer, tokenizer)
    if (was.d_model, was.d_ff) != (shape.d_model, shape.d_ff):
        weights = widen(weights, was, shape)
    for stack, (n_old, n_new) in stacks.items():
        weights = deepen(weights, stack, n_old, n_new)
    return weights


def respell(weights: dict[str, Tensor], old: Tokenizer, new: Tokenizer) -> dict[str, Tensor]:
    """Return a model's weights for another vocabulary.

    What both have keeps its numbers; a new piece begins as the mean of the old ones that it is made of, and as one
    that the CTC head seldom writes.
    """
    parts = [old.split(piece) for piece in new.pieces(range(len(new)))]
    changed = dict(weights)
    for name in ("decoder.embedding.weight", "ctc_head.weight", CTC_HEAD):
        changed[name] = torch.stack([weights[name][ids].mean(0) for ids in parts])
    changed[CTC_HEAD] -= torch.tensor([float(len(ids) > 1) for ids in parts]).to(changed[CTC_HEAD])
    return changed


def widen(weights: dict[str, Tensor], was: ModelConfig, shape: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of wider layers (function-preserving growth, Chen et al. 2016, "Net2Net").

    What writes into the residual stream gives each new unit the mean of the old ones: it adds nothing to a norm's
    mean, nothing to its sum of squares, and comes out of it as zero. So what reads the new units may be random; new
    heads and new feed-forward units write nothing yet. Only the variance is of more units, and the norms' scales make
    up for that.
    """
    depth = replace(shape, n_encoder_layers=was.n_encoder_layers, n_decoder_layers=was.n_decoder_layers)
    wider, shrunk = SpeechTransformer(depth).state_dict(), math.sqrt(was.d_model / shape.d_model)
    for name, weight in weights.items():
        new, module = wider[name], name.rpartition(".")[0]
        if module.endswith("norm"):
            _widen_norm(new, weight, shrunk if name.endswith("weight") else 1.0)
            if module == "decoder.norm":  # the embeddings that it is multiplied with are smaller, by the line below
                new /= shrunk
        elif module == "decoder.embedding":
            new[:] = _with_mean(weight.T, shape.d_model).T * shrunk
        elif module == "encoder.embedding":
            new[:] = _with_mean(weight, shape.d_model)
        elif module.endswith(WHERE_LAYERS_WRITE):
            written = _with_mean(weight, shape.d_model)
            new.zero_()
            new[..., : written.shape[-1]] = written
        elif module.endswith("key_value"):
            for half, old_half in zip(new.chunk(2), weight.chunk(2), strict=True):
                half[tuple(map(slice, old_half.shape))] = old_half
        else:
            new[tuple(map(slice, weight.shape))] = weight
    return wider


def _with_mean(rows: Tensor, n_rows: int) -> Tensor:
    return torch.cat((rows, rows.mean(0, keepdim=True).expand(n_rows - len(rows), *rows.shape[1:])))


def _widen_norm(new: Tensor, old: Tensor, scale: float) -> None:
    new *= scale
    new[: len(old)] = old * scale


def deepen(weights: dict[str, Tensor], stack: str, n_old: int, n_new: int) -> dict[str, Tensor]:
    """Return the weights of a stack with more layers, put evenly between the old ones.

    A new layer is a copy of the one before it that adds nothing yet: its last maps are zero (block expansion, Wu et
    al. 2024, "LLaMA Pro", section 3.2).
    """
    if n_old == n_new:
        return weights
    deeper = {name: weight for name, weight in weights.items() if not name.startswith(f"{stack}.layers.")}
    sources = [place * n_old // n_new for place in range(n_new)]
    for place, source in enumerate(sources):
        is_new = place > 0 and sources[place - 1] == source
        begin = f"{stack}.layers.{source}."
        for name, weight in weights.items():
            if name.startswith(begin):
                part = name.removeprefix(begin)
                silent = is_new and part.rpartition(".")[0] in WHERE_LAYERS_WRITE
                deeper[f"{stack}.layers.{place}.{part}"] = torch.zeros_like(weight) if silent else weight.clone()
    return deeper
