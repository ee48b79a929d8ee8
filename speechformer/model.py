"""The transformer: frames of sound go where embedded words would go; words come out.

    features_BTC ─ windows ─ one linear map ─▶ encoder ─▶ memory_BMD ─┬─▶ CTC head ─▶ ctc_logits_BMV
                                                                     │ cross-attention
                              tokens_BL ─ embedding ─▶ decoder ◀──────┘ ─▶ logits_BLV

Pre-norm residual blocks (Vaswani et al. 2017; Xiong et al. 2020), rotary positions (Su et al. 2021).
Lengths are explicit and every mask is made from them, never from values. This module knows tensors only:
neither audio nor text.

Suffixes: B utterances, T 10 ms frames, C features of a frame, M encoder positions, L tokens,
D model width, H heads, K head width, V vocabulary, S keys attended to (M or L).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechformer.shape import ModelConfig


@dataclass(frozen=True)
class DecoderCache:
    """What the decoder need not compute twice: keys and values, per layer.

    `past` grows by one token a step; `cross` is made once from the memory. Rows of `past` are hypotheses, rows of
    `cross` utterances: each utterance has as many hypotheses as any other, and they stand side by side.
    """

    past: tuple[tuple[Tensor, Tensor], ...]
    cross: tuple[tuple[Tensor, Tensor], ...]
    mask_BM: Tensor

    @property
    def n_tokens(self) -> int:
        """How many tokens have been read."""
        return self.past[0][0].shape[2] if self.past else 0

    @property
    def n_utterances(self) -> int:
        """How many utterances are being decoded."""
        return len(self.mask_BM)

    def select(self, rows: Tensor, utterances: Tensor | None = None) -> DecoderCache:
        """Return the cache of chosen hypotheses, repeated or reordered, and of chosen utterances (all, if None)."""
        past = tuple((keys[rows], values[rows]) for keys, values in self.past)
        if utterances is None:
            return DecoderCache(past, self.cross, self.mask_BM)
        cross = tuple((keys[utterances], values[utterances]) for keys, values in self.cross)
        return DecoderCache(past, cross, self.mask_BM[utterances])


def mask_from_lengths(lengths_B: Tensor, size: int) -> Tensor:
    """Return `mask_BS`, True where a position is real."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def seen_keys(mask_BM: Tensor) -> Tensor:
    """Return where attention may look: over no keys it is no number, so a row of nothing but padding may see that."""
    return mask_BM | ~mask_BM.any(1, keepdim=True)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, section 3.2): turns pairs of a head's numbers by the position.

    A query's product with a key then depends on their distance only.
    """

    def __init__(self, head_width: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_width, 2).float() / head_width)
        self.register_buffer("frequency", frequency, persistent=False)
        self.frequency: Tensor

    def forward(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines for positions start … start + length − 1, each (length, head_width)."""
        position = torch.arange(start, start + length, device=self.frequency.device).float()
        angle = torch.outer(position, self.frequency).repeat(1, 2)
        return angle.cos(), angle.sin()


def rotate(x_BHLK: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn `x_BHLK` by its positions; leave it alone where there is no rotary table."""
    if rotary is None:
        return x_BHLK
    cos, sin = (table.to(x_BHLK.dtype) for table in rotary)
    first, second = x_BHLK.chunk(2, dim=-1)
    return x_BHLK * cos + torch.cat((-second, first), dim=-1) * sin


def sinusoids(start: int, length: int, width: int) -> Tensor:
    """Return the fixed positions that are added to embeddings, (length, width) (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(start, start + length).float()[:, None]
    angle = position * torch.exp(torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def attend(query_BHLK: Tensor, keys_BHSK: Tensor, values_BHSK: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the values by how well their keys answer the query (Vaswani et al. 2017, equation 1).

    It is `scaled_dot_product_attention`, but for training on a CPU, where the gradient of torch 2.11's fused
    kernel takes 3.6 times as long as that of the plain formula (77 positions, bfloat16).
    """
    trained = query_BHLK.requires_grad and torch.is_grad_enabled()
    if query_BHLK.is_cuda or not trained:
        return functional.scaled_dot_product_attention(query_BHLK, keys_BHSK, values_BHSK, attn_mask=mask)
    return looks(query_BHLK, keys_BHSK, mask) @ values_BHSK


def looks(query_BHLK: Tensor, keys_BHSK: Tensor, mask: Tensor | None) -> Tensor:
    """Return how much of each query's look falls on each key, `looks_BHLS`; they add up to one."""
    scores_BHLS = (query_BHLK * query_BHLK.shape[-1] ** -0.5) @ keys_BHSK.transpose(-1, -2)
    if mask is not None:
        scores_BHLS = scores_BHLS + torch.zeros_like(mask, dtype=scores_BHLS.dtype).masked_fill(~mask, -math.inf)
    return scores_BHLS.softmax(-1)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) at a rate rounded to 1/256, so that one random byte decides a unit.

    A random 64-bit integer gives eight of them: three times as fast as torch's on a CPU.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * (kept.to(x.dtype) * (256 / (256 - self.threshold)))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2): every position looks up what it needs in the others."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def heads(self, x_BLD: Tensor) -> Tensor:
        """Split the width into heads: `x_BHLK`."""
        return x_BLD.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def keys_values(self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return what is looked in, keys and values, each (B, H, S, K)."""
        keys, values = self.key_value(x_BSD).chunk(2, dim=-1)
        return rotate(self.heads(keys), rotary), self.heads(values)

    def forward(
        self,
        x_BLD: Tensor,
        keys_BHSK: Tensor,
        values_BHSK: Tensor,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Look up. `mask` is True where a key may be seen and broadcasts to (B, H, L, S)."""
        query_BHLK = rotate(self.heads(self.query(x_BLD)), rotary)
        seen_BHLK = attend(query_BHLK, keys_BHSK, values_BHSK, mask)
        return self.output(seen_BHLK.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with GELU between them, at every position alone.

    GELU in its sigmoid form, x · σ(1.702 x) (Hendrycks and Gimpel 2016, section 2), is SiLU with scales before
    and after, and those are put on the weights: on a CPU it then costs a third of torch's GELU.
    """

    SCALE = 1.702

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.d_model, config.d_ff)
        self.narrow = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        if x_BLD.numel() < self.widen.weight.numel():  # a step of decoding
            return self.narrow(functional.silu(self.SCALE * self.widen(x_BLD)) / self.SCALE)
        widened = functional.linear(x_BLD, self.SCALE * self.widen.weight, self.SCALE * self.widen.bias)
        return functional.linear(functional.silu(widened), self.narrow.weight / self.SCALE, self.narrow.bias)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each around a skip connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BMD: Tensor, mask_B11M: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        normed = self.attention_norm(x_BMD)
        keys, values = self.attention.keys_values(normed, rotary)
        x_BMD = x_BMD + self.dropout(self.attention(normed, keys, values, mask_B11M, rotary=rotary))
        return x_BMD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BMD)))


class DecoderLayer(nn.Module):
    """Causal self-attention over the words so far, cross-attention to the sound, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.cross_norm = nn.LayerNorm(config.d_model)
        self.cross_attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x_BLD: Tensor,
        past: tuple[Tensor, Tensor] | None,
        cross: tuple[Tensor, Tensor],
        cross_mask_B11M: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the new `x_BLD` and this layer's self-attention keys and values, the past ones before them."""
        normed = self.attention_norm(x_BLD)
        keys, values = self.attention.keys_values(normed, rotary)
        n_new = keys.shape[2]
        if past is not None:
            keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)
        causal = None if n_new == 1 else causal_mask(n_new, keys.shape[2], keys.device)
        x_BLD = x_BLD + self.dropout(self.attention(normed, keys, values, causal, rotary=rotary))
        # The hypotheses of one utterance look into the same memory, as if they were one long text.
        normed = self.cross_norm(x_BLD).view(len(cross[0]), -1, x_BLD.shape[-1])
        x_BLD = x_BLD + self.dropout(self.cross_attention(normed, *cross, cross_mask_B11M)).view_as(x_BLD)
        return x_BLD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLD))), (keys, values)


def causal_mask(n_new: int, n_total: int, device: torch.device) -> Tensor:
    """Return a mask (n_new, n_total): the last `n_new` tokens see themselves and what came before."""
    return torch.ones(n_new, n_total, dtype=torch.bool, device=device).tril(n_total - n_new)


class Encoder(nn.Module):
    """From frames to memory: windows of frames, one linear map in the place of word embeddings, layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.window_frames * config.n_features, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_encoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def windows(self, features_BTC: Tensor, frames_B: Tensor) -> Tensor:
        """Lay overlapping windows of frames side by side, (B, M, window · C); padding frames count as zero."""
        pad, stride = self.config.pad_frames, self.config.stride_frames
        real_BT1 = mask_from_lengths(frames_B, features_BTC.shape[1])[..., None]
        # Without overlap there is no padding, and an utterance can be shorter than its first window.
        missing = max(0, self.config.window_frames - 2 * pad - features_BTC.shape[1])
        padded = functional.pad(features_BTC * real_BT1, (0, 0, pad, pad + missing))
        return padded.unfold(1, self.config.window_frames, stride).transpose(2, 3).flatten(2)

    def begin(self, features_BTC: Tensor, frames_B: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        """Return what the first layer reads, `x_BMD`, and `mask_BM`, True where it is of the utterance."""
        x_BMD = self.embedding(self.windows(features_BTC.to(self.embedding.weight.dtype), frames_B))
        n_positions = x_BMD.shape[1]
        mask_BM = mask_from_lengths(torch.as_tensor(self.config.n_positions(frames_B)), n_positions)
        if rotary is None:
            x_BMD = x_BMD + sinusoids(0, n_positions, self.config.d_model).to(x_BMD)
        return self.dropout(x_BMD), mask_BM

    def forward(self, features_BTC: Tensor, frames_B: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        x_BMD, mask_BM = self.begin(features_BTC, frames_B, rotary)
        tables = rotary(0, x_BMD.shape[1]) if rotary is not None else None
        seen_B11M = seen_keys(mask_BM)[:, None, None]
        for layer in self.layers:
            x_BMD = layer(x_BMD, seen_B11M, tables)
        return self.norm(x_BMD) * mask_BM[..., None], mask_BM


class Decoder(nn.Module):
    """From the words so far and the memory to the next word."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def start(self, memory_BMD: Tensor, mask_BM: Tensor) -> DecoderCache:
        """Make the cache of a decoder that has read no token yet."""
        mask_BM = seen_keys(mask_BM)
        attentions = [cast(DecoderLayer, layer).cross_attention for layer in self.layers]
        return DecoderCache((), tuple(attention.keys_values(memory_BMD) for attention in attentions), mask_BM)

    def begin(self, tokens_BL: Tensor, start: int, rotary: Rotary | None) -> Tensor:
        """Return what the first layer reads of tokens that come after `start` others, `x_BLD`."""
        x_BLD = self.embedding(tokens_BL) * math.sqrt(self.config.d_model)
        if rotary is None:
            x_BLD = x_BLD + sinusoids(start, tokens_BL.shape[1], self.config.d_model).to(x_BLD)
        return self.dropout(x_BLD)

    def end(self, x_BLD: Tensor) -> Tensor:
        """Return `logits_BLV` of what follows each position."""
        return functional.linear(self.norm(x_BLD), self.embedding.weight)

    def forward(self, tokens_BL: Tensor, cache: DecoderCache, rotary: Rotary | None) -> tuple[Tensor, DecoderCache]:
        start = cache.n_tokens
        tables = rotary(start, tokens_BL.shape[1]) if rotary is not None else None
        x_BLD, past = self.begin(tokens_BL, start, rotary), []
        for i, layer in enumerate(self.layers):
            layer_past = cache.past[i] if cache.past else None
            x_BLD, keys_values = layer(x_BLD, layer_past, cache.cross[i], cache.mask_BM[:, None, None], tables)
            past.append(keys_values)
        return self.end(x_BLD), DecoderCache(tuple(past), cache.cross, cache.mask_BM)


class SpeechTransformer(nn.Module):
    """Encoder, decoder and CTC head; token embedding and output share their weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.d_model // config.n_heads) if config.positions == "rotary" else None
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.ctc_head = nn.Linear(config.d_model, config.vocab_size)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)

    def encode(self, features_BTC: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return `memory_BMD` (zero beyond an utterance's end) and `mask_BM` (True = real)."""
        return self.encoder(features_BTC, frames_B, self.rotary)

    def ctc_logits(self, memory_BMD: Tensor) -> Tensor:
        """Return `ctc_logits_BMV`; token 0 is the blank."""
        return self.ctc_head(memory_BMD)

    def start_decoding(self, memory_BMD: Tensor, mask_BM: Tensor) -> DecoderCache:
        """Return the cache to decode from; cross-attention keys are made here, once."""
        return self.decoder.start(memory_BMD, mask_BM)

    def decode(self, tokens_BL: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """Read tokens after those in the cache: `logits_BLV` of what follows each, and the grown cache."""
        return self.decoder(tokens_BL, cache, self.rotary)

    def n_parameters(self) -> int:
        """Count the weights, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())


def in_bfloat16(model: SpeechTransformer) -> SpeechTransformer:
    """Return a copy that computes in bfloat16; positions keep their precision."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model


def has_fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware, about twice as fast as float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
