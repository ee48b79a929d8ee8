"""What ONNX Runtime computes is what torch computes, and a folder that it cannot compute is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speechformer import Transcriber
from speechformer.beam_search import decode, search
from speechformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from speechformer.cli import main
from speechformer.decoding import DecodingConfig, Memory, cross_looks
from speechformer.errors import CheckpointError
from speechformer.features import FeatureConfig, extract
from speechformer.frontend import Frontend
from speechformer.grammar import Grammar
from speechformer.model import SpeechTransformer
from speechformer.model_folder import DECODER, ENCODER, FILTERS, GRAPHS, find_model, has_graphs
from speechformer.onnx_export import export, weights_digest
from speechformer.onnx_recogniser import OnnxRecogniser
from speechformer.rescoring import ctc_score, rescore
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer
from speechformer.torch_recogniser import TorchRecogniser
from tests.conftest import WORDS, spoken

ASSETS = sorted((Path(__file__).parents[1] / "assets").glob("*.wav"))
FRAMES = (40, 0, 96, 13, 61)


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    """An untrained model with opinions."""
    torch.manual_seed(5)
    config = ModelConfig(vocab_size=len(tokenizer), d_model=32, d_ff=64, n_heads=2, n_encoder_layers=2)
    model = SpeechTransformer(config).eval().requires_grad_(False)
    model.decoder.embedding.weight *= 3
    return Checkpoint(model, FeatureConfig(), tokenizer)


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in full precision."""
    folder = tmp_path_factory.mktemp("onnx")
    export(checkpoint, folder, "fp32")
    return folder


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("commands", [False, True])
def test_both_engines_find_the_same_hypotheses(checkpoint: Checkpoint, folder: Path, beam: int, commands: bool) -> None:
    from speechformer.automaton import TokenAutomaton

    draw = np.random.default_rng(1)
    features_BTC = draw.standard_normal((len(FRAMES), max(FRAMES), 40), dtype=np.float32)
    config = DecodingConfig(beam=beam, n_best=beam)
    constraint = TokenAutomaton(Grammar.parse("\n".join(WORDS), is_yaml=False), checkpoint.tokenizer)
    by_torch, by_onnx = (
        decode(recogniser, features_BTC, np.array(FRAMES), config, constraint if commands else None)
        for recogniser in (TorchRecogniser(checkpoint.model), OnnxRecogniser(folder, checkpoint.model.config))
    )
    assert any(one[0].tokens for one in by_torch if one)
    for found, expected in zip(by_onnx, by_torch, strict=True):
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        scores = [one.log_probability for one in expected]
        assert [one.log_probability for one in found] == pytest.approx(scores, abs=1e-3)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_utterances_of_several_batches_are_searched_as_one(checkpoint: Checkpoint, folder: Path, engine: str) -> None:
    config = checkpoint.model.config
    recogniser = TorchRecogniser(checkpoint.model) if engine == "torch" else OnnxRecogniser(folder, config)
    features_BTC = np.random.default_rng(1).standard_normal((len(FRAMES), max(FRAMES), 40), dtype=np.float32)
    batches = ([0, 1, 2], [3, 4])
    first, second = (
        recogniser.listen(features_BTC[batch, : max(FRAMES[i] for i in batch)], np.array([FRAMES[i] for i in batch]))
        for batch in batches
    )
    alone = decode(recogniser, features_BTC, np.array(FRAMES), DecodingConfig(beam=3, n_best=2))
    for parts in ([(first, [2, 0]), (second, [1])], [(second, [0, 1])], [(first, [1]), (second, [1])]):
        chosen = [(0 if memory is first else 3) + row for memory, rows in parts for row in rows]
        joined = Memory.join([(memory, np.array(rows)) for memory, rows in parts])
        assert joined.ctc_log_probs_BMV.shape[:2] == (len(chosen), max(config.n_positions(FRAMES[i]) for i in chosen))
        together = search(recogniser, joined, DecodingConfig(beam=3, n_best=2))
        for found, expected in zip(together, (alone[i] for i in chosen), strict=True):
            assert [one.tokens for one in found] == [one.tokens for one in expected]
            scores = [one.log_probability for one in expected]
            assert [one.log_probability for one in found] == pytest.approx(scores, abs=1e-4)


def test_a_sound_is_the_mean_of_its_own_positions_to_both_engines(checkpoint: Checkpoint, folder: Path) -> None:
    features_BTC = np.random.default_rng(1).standard_normal((len(FRAMES), max(FRAMES), 40), dtype=np.float32)
    recognisers = TorchRecogniser(checkpoint.model), OnnxRecogniser(folder, checkpoint.model.config)
    for recogniser in recognisers:
        sounds_BD = recogniser.listen(features_BTC, np.array(FRAMES)).sounds()
        assert sounds_BD.shape == (len(FRAMES), checkpoint.model.config.d_model)
        assert (sounds_BD[FRAMES.index(0)] == 0).all()
        for row, n_frames in enumerate(FRAMES):
            if n_frames:
                alone = recogniser.listen(features_BTC[row : row + 1, :n_frames], np.array([n_frames])).sounds()
                np.testing.assert_allclose(sounds_BD[row], alone[0], atol=1e-4)
    by_torch, by_onnx = (one.listen(features_BTC, np.array(FRAMES)).sounds() for one in recognisers)
    np.testing.assert_allclose(by_torch, by_onnx, atol=1e-4)


def test_both_engines_score_given_texts_alike(checkpoint: Checkpoint, folder: Path) -> None:
    frames, texts = (96, 40), [[(4, 5), (6,), ()], [(7, 4)]]
    features_BTC = np.random.default_rng(2).standard_normal((2, 96, 40), dtype=np.float32)
    by_torch, by_onnx = (
        rescore(recogniser, memory, DecodingConfig(), ctc_score(memory, texts))
        for recogniser in (TorchRecogniser(checkpoint.model), OnnxRecogniser(folder, checkpoint.model.config))
        for memory in [recogniser.listen(features_BTC, np.array(frames))]
    )
    for found, expected, some in zip(by_onnx, by_torch, texts, strict=True):
        assert {one.tokens for one in found} == set(some)
        for one, other in zip(found, expected, strict=True):
            assert one.tokens == other.tokens
            assert np.hstack(one[1:]) == pytest.approx(np.hstack(other[1:]), abs=1e-3)


def test_both_engines_look_at_the_same_sound(checkpoint: Checkpoint, folder: Path) -> None:
    draw = np.random.default_rng(2)
    features_BTC = draw.standard_normal((len(FRAMES), max(FRAMES), 40), dtype=np.float32)
    texts = [[5, 6, 7], [], [8], [9, 9], [4, 5]]
    by_torch, by_onnx = (
        cross_looks(recogniser, recogniser.listen(features_BTC, np.array(FRAMES)), texts)
        for recogniser in (TorchRecogniser(checkpoint.model), OnnxRecogniser(folder, checkpoint.model.config))
    )
    n_heads = checkpoint.model.config.n_decoder_layers * checkpoint.model.config.n_heads
    for text, frames, found, expected in zip(texts, FRAMES, by_onnx, by_torch, strict=True):
        assert found.shape[:2] == (len(text), n_heads)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        if text:
            np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
            assert not found[..., checkpoint.model.config.n_positions(frames) :].any()


def test_the_frontend_without_librosa_gives_librosas_features(tmp_path: Path) -> None:
    for config in (FeatureConfig(), FeatureConfig(n_mels=64, n_mfcc=20, edge_s=0.0)):
        Frontend.made_by_librosa(config).save(tmp_path / "filters")
        frontend = Frontend.load(tmp_path / "filters", config)
        for waveform_N in (spoken("go"), np.tile(spoken("left"), 3)[:-77], spoken("stop")[:511], spoken("stop")[:512]):
            expected_TC = extract(waveform_N, config)
            np.testing.assert_allclose(frontend.extract(waveform_N), expected_TC, atol=1e-3)


def test_the_shipped_graphs_are_of_the_shipped_weights() -> None:
    checkpoint = load_checkpoint(find_model())
    network = OnnxRecogniser(find_model(), checkpoint.model.config)
    assert network.weights == weights_digest(checkpoint.model)
    assert network.precision == "int8"
    np.testing.assert_array_equal(
        Frontend.load(find_model() / FILTERS, checkpoint.features).mel_FS,
        Frontend.made_by_librosa(checkpoint.features).mel_FS,
    )


def test_both_engines_and_both_precisions_write_the_samples() -> None:
    texts = [path.stem.replace("-", " ") for path in ASSETS]
    for settings in ({"engine": "onnx"}, {"engine": "torch"}, {"precision": "bf16"}, {"precision": "fp32"}):
        transcriber = Transcriber.from_pretrained(**settings)  # type: ignore[arg-type]
        assert [transcriber.transcribe(path).text for path in ASSETS] == texts


def test_the_command_line_exports_what_it_can_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", "--onnx", str(tmp_path / "out"), "--precision", "fp32"]) == 0
    sample = str(ASSETS[0])
    for engine in ("onnx", "torch"):
        capsys.readouterr()
        status = main(["transcribe", sample, "--model", str(tmp_path / "out"), "--engine", engine])
        printed = capsys.readouterr()
        if engine == "onnx":
            assert (status, printed.out.strip()) == (0, ASSETS[0].stem.replace("-", " "))
        else:
            assert status == 2
            assert "model.safetensors: the model's weights are missing" in printed.err


def test_new_weights_take_the_graphs_of_the_old_ones_away(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in GRAPHS:
        (tmp_path / name).write_bytes(b"old")
    assert has_graphs(tmp_path)
    save_checkpoint(tmp_path, checkpoint)
    assert not has_graphs(tmp_path)


@pytest.mark.parametrize("part", GRAPHS)
@pytest.mark.parametrize("harm", ["missing", "garbage", "cut", "other"])
def test_a_damaged_part_is_named(checkpoint: Checkpoint, folder: Path, tmp_path: Path, part: str, harm: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    broken = tmp_path / "model" / part
    if harm == "missing":
        broken.unlink()
    elif harm == "garbage":
        broken.write_bytes(b"\x80\x04garbage" * 9)
    elif harm == "cut":
        broken.write_bytes(broken.read_bytes()[:2000])
    else:
        shutil.copyfile(find_model() / (DECODER if part == ENCODER else ENCODER), broken)
    with pytest.raises(CheckpointError, match=part):
        Transcriber.from_pretrained(tmp_path / "model", engine="onnx")


@pytest.mark.parametrize("other", ["vocab_size", "n_decoder_layers"])
def test_graphs_of_another_model_are_refused(folder: Path, tmp_path: Path, other: str) -> None:
    shutil.copytree(find_model(), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    written, theirs = (json.loads(path.read_text("utf-8")) for path in (config, folder / "config.json"))
    if other == "vocab_size":
        shutil.copyfile(folder / "tokenizer.model", tmp_path / "model" / "tokenizer.model")
    assert written["model"][other] != theirs["model"][other]
    written["model"][other] = theirs["model"][other]
    config.write_text(json.dumps(written), "utf-8")
    with pytest.raises(CheckpointError, match=r"is of another model than config\.json"):
        Transcriber.from_pretrained(tmp_path / "model", engine="onnx")


def test_a_command_line_that_transcribes_loads_neither_torch_nor_librosas_parts() -> None:
    source = f"""
import sys
from speechformer.cli import main
status = main(["transcribe", {str(ASSETS[0])!r}])
print(status, sorted({{"torch", "numba", "scipy", "sklearn", "rich", "jiwer", "hassil"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [ASSETS[0].stem.replace("-", " "), "0 []"], done.stderr
