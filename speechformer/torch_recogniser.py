"""The network as the search sees it, computed by torch: on a CPU or a GPU, in float32 or bfloat16."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional

from speechformer.decoding import Floats, Ints, Memory
from speechformer.model import Attention, DecoderCache, DecoderLayer, SpeechTransformer, looks

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # keys and values


@dataclass(frozen=True)
class TorchCache:
    """A `DecoderCache` behind numpy indices."""

    inner: DecoderCache

    @property
    def n_utterances(self) -> int:
        """How many utterances are being decoded."""
        return self.inner.n_utterances

    def mean_values(self) -> Floats:
        """Return `values_BD`, the mean over each utterance's positions of the first layer's values, heads in a row."""
        mask_BM, values_BHMK = self.inner.mask_BM, self.inner.cross[0][1].float()
        share_BM = mask_BM / mask_BM.sum(1, keepdim=True).clamp(min=1)
        values_BD: Floats = torch.einsum("bhmk,bm->bhk", values_BHMK, share_BM).flatten(1).cpu().numpy()
        return values_BD

    def select(self, rows: Ints, utterances: Ints | None = None) -> TorchCache:
        """Return the cache of chosen hypotheses, repeated or reordered, and of chosen utterances (all, if None)."""
        device = self.inner.mask_BM.device
        chosen = None if utterances is None else torch.from_numpy(utterances).to(device)
        return TorchCache(self.inner.select(torch.from_numpy(rows).to(device), chosen))

    @classmethod
    def join(cls, parts: Sequence[tuple[TorchCache, Ints]], n_positions: int, n_tokens: int = 0) -> TorchCache:
        """Return one cache of chosen utterances of several, one hypothesis each: of the first tokens that were read."""
        chosen = [cache.select(rows, rows).inner for cache, rows in parts]
        mask_BM1 = _stacked([cache.mask_BM[..., None] for cache in chosen], n_positions)
        past = _stacked_layers([cache.past if n_tokens else () for cache in chosen], n_tokens)
        cross = _stacked_layers([cache.cross for cache in chosen], n_positions)
        return cls(DecoderCache(past, cross, mask_BM1[..., 0]))


def _stacked(parts: Sequence[torch.Tensor], n_positions: int) -> torch.Tensor:
    """Put batches under each other, each padded or cut to so many positions, the last dimension but one."""
    return torch.cat([functional.pad(part, (0, 0, 0, n_positions - part.shape[-2])) for part in parts])


def _stacked_layers(parts: Sequence[Layers], n_positions: int) -> Layers:
    layers = zip(*parts, strict=True)
    return tuple(
        (_stacked([keys for keys, _ in layer], n_positions), _stacked([values for _, values in layer], n_positions))
        for layer in layers
    )


class TorchRecogniser:
    """A `decoding.Recogniser`. The model stays where it is and as it is; it decodes for one thread at a time."""

    def __init__(self, model: SpeechTransformer) -> None:
        self.model, self.alone = model, threading.RLock()  # who watches the layers must not see another's batch

    @torch.inference_mode()
    def listen(self, features_BTC: Floats, frames_B: Ints) -> Memory:
        """Encode a batch."""
        device = self.model.ctc_head.weight.device
        memory_BMD, mask_BM = self.model.encode(
            torch.from_numpy(features_BTC).to(device), torch.from_numpy(frames_B).to(device)
        )
        log_probs_BMV = self.model.ctc_logits(memory_BMD).float().log_softmax(-1)
        cache = TorchCache(self.model.start_decoding(memory_BMD, mask_BM))
        return Memory(log_probs_BMV.cpu().numpy(), mask_BM.sum(1).cpu().numpy(), cache)

    @torch.inference_mode()
    def read(self, tokens_RL: Ints, cache: TorchCache) -> tuple[Floats, TorchCache]:
        """Read more tokens of each hypothesis."""
        device = self.model.ctc_head.weight.device
        with self.alone:
            logits_RLV, grown = self.model.decode(torch.from_numpy(tokens_RL).to(device), cache.inner)
        log_probs_RLV: Floats = logits_RLV.float().log_softmax(-1).cpu().numpy()
        return log_probs_RLV, TorchCache(grown)

    @torch.inference_mode()
    def look(self, tokens_RL: Ints, cache: TorchCache) -> Floats:
        """Return where cross-attention looks while such tokens are read."""
        looked: list[torch.Tensor] = []

        def watch(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            attention, (normed_BSD, keys_BHMK, _, mask_B11M) = cast(Attention, module), given
            looks_BHSM = looks(attention.heads(attention.query(normed_BSD)), keys_BHMK, mask_B11M)
            looked.append(looks_BHSM.transpose(1, 2).reshape(*tokens_RL.shape, attention.n_heads, -1))

        layers = [cast(DecoderLayer, layer) for layer in self.model.decoder.layers]
        with self.alone:
            watched = [layer.cross_attention.register_forward_pre_hook(watch) for layer in layers]
            try:
                self.read(tokens_RL, cache)
            finally:
                for one in watched:
                    one.remove()
        return torch.cat(looked, 2).float().cpu().numpy()
