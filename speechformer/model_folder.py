"""What a model folder says beside its weights: `config.json`, `tokenizer.model`, `calibration.json`, `lexicon.txt`.

The weights are beside them, for torch in `model.safetensors` (see `checkpoint`), for ONNX Runtime in two graphs (see
`onnx_recogniser`) with the filters of the features (see `frontend`). `format` is raised when an old program could
misread a new folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechformer.confidence import N_EVIDENCE, Calibration, Evidence
from speechformer.config import build, to_dict
from speechformer.errors import CheckpointError, ConfigError
from speechformer.features import FeatureConfig
from speechformer.files import replace_file
from speechformer.lexicon import Lexicon
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "commands-en"
LEXICON = "lexicon.txt"
ENCODER, DECODER, FILTERS = GRAPHS = "encoder.onnx", "decoder.onnx", "filters.safetensors"


@dataclass(frozen=True)
class Settings:
    """The shape of a network, the features and the tokenizer it was trained with, what its scores are worth, words."""

    shape: ModelConfig
    features: FeatureConfig
    tokenizer: Tokenizer
    calibration: Calibration = field(default_factory=Calibration)
    lexicon: Lexicon = field(default_factory=Lexicon)


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a model: a path, or the name of a model that is shipped."""
    shipped = {folder.name: folder for folder in sorted(PRETRAINED.glob("*")) if folder.is_dir()}
    path = shipped.get(str(name or DEFAULT_MODEL), Path(name or DEFAULT_MODEL))
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such model folder; give a folder or one of: {', '.join(shipped)}")
    return path


def has_graphs(folder: Path) -> bool:
    """Say whether a model folder can be computed without torch."""
    return all((folder / name).exists() for name in GRAPHS)


def read_settings(folder: Path) -> Settings:
    """Read all but the weights.

    Raises CheckpointError that names the part which is missing, damaged, or of a newer format.
    """
    config = _read_config(folder / "config.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    try:
        shape = build(ModelConfig, config["model"])
        features = build(FeatureConfig, config["features"])
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: cannot be used ({error}); copy the model again") from error
    if shape.n_features != features.n_mfcc:
        raise CheckpointError(
            f"{folder / 'config.json'}: the model reads {shape.n_features} features a frame and "
            f"{features.n_mfcc} are made; copy the model again"
        )
    if shape.vocab_size != len(tokenizer):
        raise CheckpointError(
            f"{folder}: the model writes {shape.vocab_size} tokens and tokenizer.model has {len(tokenizer)}; "
            "copy both from one model"
        )
    calibration = _read_calibration(folder / "calibration.json", shape)
    return Settings(shape, features, tokenizer, calibration, Lexicon.load(folder / LEXICON))


def write_settings(folder: Path, settings: Settings) -> None:
    """Write all but the weights, each part replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "model": to_dict(settings.shape), "features": to_dict(settings.features)}
    replace_file(folder / "tokenizer.model", settings.tokenizer.save)
    _write_json(folder / "config.json", config)
    if settings.calibration.fitted_on:
        save_calibration(folder, settings.calibration)
    else:
        (folder / "calibration.json").unlink(missing_ok=True)  # of weights that are gone
    if settings.lexicon:
        replace_file(folder / LEXICON, settings.lexicon.save)
    else:
        (folder / LEXICON).unlink(missing_ok=True)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` beside a model."""
    _write_json(folder / "calibration.json", to_dict(calibration))


def _write_json(path: Path, values: Any) -> None:
    replace_file(path, lambda unfinished: unfinished.write_text(json.dumps(values, indent=2) + "\n", "utf-8"))


def _read_calibration(path: Path, shape: ModelConfig) -> Calibration:
    try:
        calibration: Calibration = build(Calibration, json.loads(path.read_text("utf-8")))
        if calibration.evidence != Calibration().evidence:
            raise ConfigError("it weighs other evidence than this version collects, and can be deleted and made anew")
        calibration.judge(Evidence(*[0.0] * N_EVIDENCE))
        if len(calibration.voice.weights) not in (0, shape.d_model):
            raise ConfigError(
                f"its voice weighs {len(calibration.voice.weights)} numbers, the model has {shape.d_model}"
            )
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
