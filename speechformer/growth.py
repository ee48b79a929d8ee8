"""What a model has learnt, carried over to one with another vocabulary or with more layers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from speechformer.checkpoint import Checkpoint
from speechformer.errors import ConfigError
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer

CTC_HEAD = "ctc_head.bias"
WHERE_LAYERS_WRITE = ("attention.output", "cross_attention.output", "feed_forward.narrow")


def grow(old: Checkpoint, shape: ModelConfig, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Return the weights that a network of `shape` begins with so that it computes what the old one does.

    Dropout and vocabulary may differ and the stacks may be deeper; raise ConfigError where anything else does.
    """
    was = old.model.config
    stacks = {"encoder": (was.n_encoder_layers, shape.n_encoder_layers),
              "decoder": (was.n_decoder_layers, shape.n_decoder_layers)}  # fmt: skip
    same = replace(shape, dropout=was.dropout, vocab_size=was.vocab_size,
                   n_encoder_layers=was.n_encoder_layers, n_decoder_layers=was.n_decoder_layers)  # fmt: skip
    if same != was or any(n_old > n_new for n_old, n_new in stacks.values()):
        raise ConfigError("another network than this run's; take model.* from its config.json, or more layers")
    weights = old.model.state_dict()
    if old.tokenizer.model != tokenizer.model:
        weights = respell(weights, old.tokenizer, tokenizer)
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
