"""A model folder ↔ a model that torch computes: `model.safetensors` beside the settings (see `model_folder`).

No pickle: the folder may come from anywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from speechformer.confidence import Calibration
from speechformer.errors import CheckpointError, ConfigError
from speechformer.features import FeatureConfig
from speechformer.files import replace_file
from speechformer.lexicon import Lexicon
from speechformer.model import SpeechTransformer
from speechformer.model_folder import GRAPHS, Settings, read_settings, write_settings
from speechformer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A model with the features and the tokenizer it was trained with."""

    model: SpeechTransformer
    features: FeatureConfig
    tokenizer: Tokenizer
    calibration: Calibration = field(default_factory=Calibration)
    lexicon: Lexicon = field(default_factory=Lexicon)

    @property
    def settings(self) -> Settings:
        """All but the weights."""
        return Settings(self.model.config, self.features, self.tokenizer, self.calibration, self.lexicon)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write weights and settings; `half` stores the weights in half precision. Each part is replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in checkpoint.model.state_dict().items()}
    for graph in GRAPHS:
        (folder / graph).unlink(missing_ok=True)  # of weights that are gone
    replace_file(folder / "model.safetensors", lambda path: save_file(state, path))
    write_settings(folder, checkpoint.settings)


def load_checkpoint(folder: str | os.PathLike[str], device: str = "cpu") -> Checkpoint:
    """Load a model folder in full precision, ready for inference.

    Raises CheckpointError that names the part which is missing, damaged, or of a newer format.
    """
    settings = read_settings(Path(folder))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: there is no CUDA device here; use cpu")
    model = SpeechTransformer(settings.shape)
    _load_weights(model, Path(folder) / "model.safetensors")
    model = model.to(device).eval().requires_grad_(False)
    return Checkpoint(model, settings.features, settings.tokenizer, settings.calibration, settings.lexicon)


def _load_weights(model: SpeechTransformer, path: Path) -> None:
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        model.load_state_dict(state)
    except OSError as error:
        raise CheckpointError(f"{path}: the model's weights are missing; copy the whole model folder") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights are damaged or of another model; copy the model again") from error
