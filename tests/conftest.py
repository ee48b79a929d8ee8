"""What several tests share: a small model, a small corpus, and a check that names tell shapes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import speechformer
from speechformer.audio import SAMPLE_RATE_HZ, Waveform, write_wav
from speechformer.data import write_manifest
from speechformer.model import SpeechTransformer
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer

COMMANDS_RECIPE = Path(__file__).parents[1] / "recipes" / "commands"
PACKAGE = str(Path(speechformer.__file__).parent)
SUFFIX = re.compile(r"_([A-Z0-9]+)$")
WORDS = {"go": (0, 1, 2), "stop": (2, 1, 0), "left": (3, 0, 3), "right": (1, 3, 1)}
TONES_HZ = (300, 700, 1500, 3000)
torch.set_num_threads(1)


def import_recipe(name: str) -> ModuleType:
    """Import a script of the commands recipe, which finds its neighbours as it does when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(COMMANDS_RECIPE))
        return importlib.import_module(name)


def misnamed(names: dict[str, Any]) -> list[str]:
    """Name the tensors and arrays whose shape is not what their suffix says; a digit is a dimension of that size."""
    wrong = []
    for name, value in names.items():
        suffix = SUFFIX.search(name)
        if suffix and isinstance(value, torch.Tensor | np.ndarray):
            sizes = zip(suffix[1], value.shape, strict=False)
            if value.ndim != len(suffix[1]) or any(dim.isdigit() and int(dim) != size for dim, size in sizes):
                wrong.append(f"{name} has the shape {tuple(value.shape)}")
    return wrong


@pytest.fixture
def shapes() -> Iterator[None]:
    """Compare every shape suffix of the package with the real value, at each call and return."""
    wrong: set[str] = set()

    def check(frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "return") and frame.f_code.co_filename.startswith(PACKAGE):
            wrong.update(f"{frame.f_code.co_qualname}: {name}" for name in misnamed(frame.f_locals))

    sys.setprofile(check)
    yield
    sys.setprofile(None)
    assert not wrong


@pytest.fixture
def make_model() -> Callable[..., SpeechTransformer]:
    """Build a small untrained model, ready for inference; the same settings give the same weights."""

    def make(seed: int = 0, **changes: Any) -> SpeechTransformer:
        small: dict[str, Any] = {
            "n_features": 3, "vocab_size": 6, "window_frames": 4, "stride_frames": 2,
            "d_model": 16, "d_ff": 32, "n_heads": 2, "n_encoder_layers": 2, "n_decoder_layers": 2,
        }  # fmt: skip
        torch.manual_seed(seed)
        return SpeechTransformer(ModelConfig(**{**small, **changes})).eval()

    return make


def spoken(word: str, pitch: float = 1.0) -> Waveform:
    """Return 0.6 s of three tones that stand for a word, over a little hiss."""
    time_N = np.arange(SAMPLE_RATE_HZ // 5) / SAMPLE_RATE_HZ
    tones_N = np.concatenate([np.sin(2 * np.pi * pitch * TONES_HZ[i] * time_N) for i in WORDS[word]])
    hiss_N = np.random.default_rng(len(word)).standard_normal(len(tones_N))
    return (0.3 * tones_N + 0.001 * hiss_N).astype(np.float32)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Return a tokenizer of the four words."""
    return Tokenizer.train(WORDS, vocab_size=40)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Write a folder with `train`, `dev` and `tokenizer.model`: four words spoken in tones, and a noise."""
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer.save(folder / "tokenizer.model")
    hiss_N = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ).astype(np.float32)
    for part in ("train", "dev"):
        rows = []
        for word in WORDS:
            (folder / part).mkdir(exist_ok=True)
            write_wav(folder / part / f"{word}.wav", spoken(word))
            rows.append({"audio_filepath": f"{word}.wav", "duration": 0.6, "text": word, "corpus": "tones"})
        write_manifest(folder / part / "tones.jsonl", rows)
    write_wav(folder / "train" / "hiss.wav", 0.1 * hiss_N)
    write_manifest(folder / "train" / "_noise.jsonl", [{"audio_filepath": "hiss.wav", "duration": 1.0}])
    return folder
