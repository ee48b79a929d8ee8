"""A model folder ↔ a model that can be used: `config.json`, `model.safetensors`, `tokenizer.model`.

`calibration.json` can be beside them: what makes probabilities of scores (see `confidence`).

No pickle: the folder may come from anywhere. `format` is raised when an old program could misread a new folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from speechformer.confidence import N_EVIDENCE, Calibration, Evidence
from speechformer.config import build, to_dict
from speechformer.errors import CheckpointError, ConfigError
from speechformer.features import FeatureConfig
from speechformer.model import ModelConfig, SpeechTransformer
from speechformer.tokenizer import Tokenizer

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "commands-en"


@dataclass(frozen=True)
class Checkpoint:
    """A model with the features and the tokenizer it was trained with."""

    model: SpeechTransformer
    features: FeatureConfig
    tokenizer: Tokenizer
    calibration: Calibration = field(default_factory=Calibration)


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a model: a path, or the name of a model that is shipped."""
    shipped = {folder.name: folder for folder in sorted(PRETRAINED.glob("*")) if folder.is_dir()}
    path = shipped.get(str(name or DEFAULT_MODEL), Path(name or DEFAULT_MODEL))
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such model folder; give a folder or one of: {', '.join(shipped)}")
    return path


def save_checkpoint(folder: Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write the three parts; `half` stores the weights in half precision. Each part is replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in checkpoint.model.state_dict().items()}
    config = {
        "format": FORMAT,
        "model": to_dict(checkpoint.model.config),
        "features": to_dict(checkpoint.features),
    }
    _replace(folder / "model.safetensors", lambda path: save_file(state, path))
    _replace(folder / "tokenizer.model", checkpoint.tokenizer.save)
    _write_json(folder / "config.json", config)
    if checkpoint.calibration.fitted_on:
        save_calibration(folder, checkpoint.calibration)
    else:
        (folder / "calibration.json").unlink(missing_ok=True)  # of weights that are gone


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` beside a model."""
    _write_json(folder / "calibration.json", to_dict(calibration))


def _write_json(path: Path, values: Any) -> None:
    _replace(path, lambda unfinished: unfinished.write_text(json.dumps(values, indent=2) + "\n", "utf-8"))


def _replace(path: Path, write: Any) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    unfinished.replace(path)


def load_checkpoint(folder: str | os.PathLike[str], device: str = "cpu") -> Checkpoint:
    """Load a model folder in full precision, ready for inference.

    Raises CheckpointError that names the part which is missing, damaged, or of a newer format.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    try:
        model_config = build(ModelConfig, config["model"])
        features = build(FeatureConfig, config["features"])
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: cannot be used ({error}); copy the model again") from error
    if model_config.n_features != features.n_mfcc:
        raise CheckpointError(
            f"{folder / 'config.json'}: the model reads {model_config.n_features} features a frame and "
            f"{features.n_mfcc} are made; copy the model again"
        )
    if model_config.vocab_size != len(tokenizer):
        raise CheckpointError(
            f"{folder}: the model writes {model_config.vocab_size} tokens and tokenizer.model has {len(tokenizer)}; "
            "copy both from one model"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: there is no CUDA device here; use cpu")
    model = SpeechTransformer(model_config)
    _load_weights(model, folder / "model.safetensors")
    calibration = _read_calibration(folder / "calibration.json")
    return Checkpoint(model.to(device).eval().requires_grad_(False), features, tokenizer, calibration)


def _read_calibration(path: Path) -> Calibration:
    try:
        calibration: Calibration = build(Calibration, json.loads(path.read_text("utf-8")))
        calibration.judge(Evidence(*[0.0] * N_EVIDENCE))
        if calibration.evidence != Calibration().evidence:
            raise ConfigError("it weighs other evidence than this version collects")
    except FileNotFoundError:
        return Calibration()
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: cannot be used ({error}); copy the model again") from error
    return calibration


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: the model's settings are missing; copy the whole model folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: the model's settings are not JSON; copy the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise CheckpointError(f"{path}: has no format number, so it is not a speechformer model; give another folder")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: the model has format {config['format']} and this program reads up to {FORMAT}; "
            "upgrade with: pip install --upgrade speechformer"
        )
    return config


def _load_weights(model: SpeechTransformer, path: Path) -> None:
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        model.load_state_dict(state)
    except OSError as error:
        raise CheckpointError(f"{path}: the model's weights are missing; copy the whole model folder") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights are damaged or of another model; copy the model again") from error
