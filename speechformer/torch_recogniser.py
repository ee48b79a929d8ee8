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


@dataclass(frozen=True)
class TorchCache:
    """A `DecoderCache` behind numpy indices."""

    inner: DecoderCache

    @property
    def n_utterances(self) -> int:
        """How many utterances are being decoded."""
        return self.inner.n_utterances

    def select(self, rows: Ints, utterances: Ints | None = None) -> TorchCache:
        """Return the cache of chosen hypotheses, repeated or reordered, and of chosen utterances (all, if None)."""
        device = self.inner.mask_BM.device
        chosen = None if utterances is None else torch.from_numpy(utterances).to(device)
        return TorchCache(self.inner.select(torch.from_numpy(rows).to(device), chosen))

    @classmethod
    def join(cls, parts: Sequence[tuple[TorchCache, Ints]], n_positions: int) -> TorchCache:
        """Return, before a token was read, the cache of chosen utterances of several, with so many positions each."""
        cross = []
        for layer in zip(*(cache.inner.cross for cache, _ in parts), strict=True):
            keys, values = zip(
                *((keys[rows], values[rows]) for (keys, values), (_, rows) in zip(layer, parts, strict=True)),
                strict=True,
            )
            cross.append((_stacked(keys, n_positions), _stacked(values, n_positions)))
        masks_BM1 = [cache.inner.mask_BM[rows][..., None] for cache, rows in parts]
        return cls(DecoderCache((), tuple(cross), _stacked(masks_BM1, n_positions)[..., 0]))


def _stacked(parts: Sequence[torch.Tensor], n_positions: int) -> torch.Tensor:
    """Put batches under each other, each padded or cut to so many positions, the last dimension but one."""
    return torch.cat([functional.pad(part, (0, 0, 0, n_positions - part.shape[-2])) for part in parts])


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
    def read(self, tokens_R: Ints, cache: TorchCache) -> tuple[Floats, TorchCache]:
        """Read one more token of each hypothesis."""
        device = self.model.ctc_head.weight.device
        with self.alone:
            logits_RLV, grown = self.model.decode(torch.from_numpy(tokens_R).to(device)[:, None], cache.inner)
        log_probs_RV: Floats = logits_RLV[:, -1].float().log_softmax(-1).cpu().numpy()
        return log_probs_RV, TorchCache(grown)

    @torch.inference_mode()
    def look(self, tokens_R: Ints, cache: TorchCache) -> tuple[Floats, TorchCache]:
        """Read one more token of each hypothesis and return where its cross-attention looks."""
        looked: list[torch.Tensor] = []

        def watch(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            attention, (normed_BWD, keys_BHMK, _, mask_B11M) = cast(Attention, module), given
            looks_BHWM = looks(attention.heads(attention.query(normed_BWD)), keys_BHMK, mask_B11M)
            looked.append(looks_BHWM.transpose(1, 2).flatten(0, 1))

        layers = [cast(DecoderLayer, layer) for layer in self.model.decoder.layers]
        with self.alone:
            watched = [layer.cross_attention.register_forward_pre_hook(watch) for layer in layers]
            try:
                _, grown = self.read(tokens_R, cache)
            finally:
                for one in watched:
                    one.remove()
        return torch.cat(looked, 1).float().cpu().numpy(), grown
