"""A model folder gives back the model that was saved, and says which part of it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from speechformer.confidence import Calibration, Head
from speechformer.errors import CheckpointError
from speechformer.features import FeatureConfig
from speechformer.model import SpeechTransformer
from speechformer.model_folder import FORMAT, find_model, save_calibration
from speechformer.tokenizer import Tokenizer


@pytest.fixture
def checkpoint(make_model: Callable[..., SpeechTransformer], tokenizer: Tokenizer) -> Checkpoint:
    features = FeatureConfig(n_mels=20, n_mfcc=3, normalise="global", mean_C=(1.0, 2.0, 3.0), scale_C=(1.0,) * 3)
    return Checkpoint(make_model(vocab_size=len(tokenizer)), features, tokenizer)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


@torch.inference_mode()
def logits(model: SpeechTransformer) -> Tensor:
    features_BTC = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    memory_BMD, mask_BM = model.encode(features_BTC, torch.tensor([9, 5]))
    decoded_BLV, _ = model.decode(torch.tensor([[1, 4], [1, 5]]), model.start_decoding(memory_BMD, mask_BM))
    return torch.cat((decoded_BLV, model.ctc_logits(memory_BMD)), dim=1)


def test_what_is_loaded_computes_what_was_saved(checkpoint: Checkpoint, folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert torch.equal(logits(loaded.model), logits(checkpoint.model))
    assert loaded.features == checkpoint.features
    assert loaded.model.config == checkpoint.model.config
    assert loaded.tokenizer.encode("stop right") == checkpoint.tokenizer.encode("stop right")


def test_a_loaded_model_is_ready_for_inference(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.model.train()
    save_checkpoint(tmp_path, checkpoint)
    model = load_checkpoint(tmp_path).model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_half_precision_is_half_as_large_and_nearly_the_same(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder.parent / "half", checkpoint, half=True)
    loaded = load_checkpoint(folder.parent / "half")
    sizes = [(one / "model.safetensors").stat().st_size for one in (folder.parent / "half", folder)]
    assert sizes[0] < 0.7 * sizes[1]
    assert all(weight.dtype == torch.float32 for weight in loaded.model.parameters())
    torch.testing.assert_close(logits(loaded.model), logits(checkpoint.model), rtol=0, atol=0.02)


def test_a_folder_holds_three_files_and_a_second_save_replaces_them(checkpoint: Checkpoint, folder: Path) -> None:
    with torch.no_grad():
        checkpoint.model.ctc_head.bias += 1
    save_checkpoint(folder, checkpoint)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert torch.equal(logits(load_checkpoint(folder).model), logits(checkpoint.model))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "garbage"])
def test_a_damaged_part_is_named(folder: Path, name: str, damage: str) -> None:
    content = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        damaged = {"empty": b"", "cut off": content[: len(content) // 2], "garbage": b"\xff\x00garbage" * 9}
        (folder / name).write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=f"{name}.*; "):
        load_checkpoint(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer format": (lambda c: c.update(format=FORMAT + 1), f"format {FORMAT + 1}.*upgrade"),
    "no format": (lambda c: c.pop("format"), "no format number"),
    "no model": (lambda c: c.pop("model"), "model"),
    "a list for the model": (lambda c: c.update(model=[1]), "cannot be used"),
    "a number for the features": (lambda c: c.update(features=3), "cannot be used"),
    "unknown key": (lambda c: c["model"].update(n_head=4), 'did you mean "n_heads"'),
    "wrong type": (lambda c: c["model"].update(d_model="wide"), "d_model.*whole number"),
    "no heads": (lambda c: c["model"].update(n_heads=0), "n_heads"),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS)
def test_settings_that_cannot_be_used_are_named(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit(folder, lambda config: config["model"].update(d_ff=64))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*of another model"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_size_is_refused(folder: Path) -> None:
    Tokenizer.train(["turn on the light in the kitchen"], vocab_size=50).save(folder / "tokenizer.model")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model has \d+; copy both"):
        load_checkpoint(folder)


def test_a_calibration_of_another_model_is_refused(folder: Path, checkpoint: Checkpoint) -> None:
    calibrated = Calibration(voice=Head((0.5,) * checkpoint.model.config.d_model, 0.0))
    save_calibration(folder, calibrated)
    assert load_checkpoint(folder).calibration == calibrated
    save_calibration(folder, Calibration(voice=Head((0.5,) * 7, 0.0)))
    with pytest.raises(CheckpointError, match=r"calibration\.json: cannot be used \(its voice weighs 7 numbers"):
        load_checkpoint(folder)


class Bomb:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('a pickle was opened')",)


def test_a_pickle_in_disguise_is_never_opened(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.model", "config.json"):
        torch.save({"weights": Bomb()}, folder / name)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(folder)


def test_a_model_is_found_by_its_folder_and_a_missing_one_is_named(folder: Path) -> None:
    assert find_model(folder) == folder
    with pytest.raises(CheckpointError, match="no-such-model: there is no such model folder"):
        find_model("no-such-model")
