"""The shape of the network, as it stands in a model's `config.json`; it can be read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from speechformer.config import check_within
from speechformer.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network. Widths are numbers of units, rates are probabilities."""

    n_features: int = 40
    vocab_size: int = 64
    window_frames: int = 12
    stride_frames: int = 4
    d_model: int = 256
    d_ff: int = 1024
    n_heads: int = 4
    n_encoder_layers: int = 6
    n_decoder_layers: int = 2
    dropout: float = 0.1
    positions: Literal["rotary", "sinusoidal"] = "rotary"

    def __post_init__(self) -> None:
        check_within(self, "model.", "d_model d_ff n_heads n_encoder_layers n_decoder_layers", 1)
        check_within(self, "model.", "window_frames stride_frames", 1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout is 0 or more and less than 1, not {self.dropout}")
        if self.d_model % (2 * self.n_heads):
            raise ConfigError(f"model.d_model = {self.d_model} cannot be cut into {self.n_heads} even heads")
        if self.window_frames % self.stride_frames:
            raise ConfigError("model.window_frames must be a multiple of model.stride_frames")

    @property
    def pad_frames(self) -> int:
        """Frames of nothing put before and after an utterance, so that its ends lie inside full windows."""
        return self.window_frames - self.stride_frames

    def n_positions(self, frames: Any) -> Any:
        """Encoder positions of utterances of so many frames (a number or a tensor); none for no frames."""
        positions = (frames + 2 * self.pad_frames - self.window_frames) // self.stride_frames + 1
        return positions * (frames > 0)
