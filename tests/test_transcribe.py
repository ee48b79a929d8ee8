"""The public Python API: order, batches, long audio, silence."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechformer import DecodingConfig, Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, Waveform, write_wav
from speechformer.beam_search import search as search_for
from speechformer.checkpoint import Checkpoint, save_checkpoint
from speechformer.decoding import Floats, Hypothesis, Ints, Memory, Recogniser, Spelling
from speechformer.errors import AudioError, CheckpointError, ConfigError
from speechformer.features import FeatureConfig
from speechformer.grammar import Grammar
from speechformer.lexicon import Lexicon
from speechformer.model import SpeechTransformer
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer
from speechformer.torch_recogniser import TorchRecogniser
from speechformer.transcribe import MAX_SPAN_S, Heard, Precision, _batches
from tests.conftest import spoken


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    """An untrained model: what it writes means nothing, but must not depend on the company it is in."""
    import torch

    torch.manual_seed(3)
    config = ModelConfig(vocab_size=len(tokenizer), d_model=32, d_ff=64, n_heads=2, n_encoder_layers=2)
    model = SpeechTransformer(config).eval().requires_grad_(False)
    return Checkpoint(model, FeatureConfig(), tokenizer)


@pytest.fixture(scope="module")
def transcriber(checkpoint: Checkpoint) -> Transcriber:
    """Torch computes it, in float32: in bfloat16 what an untrained model writes hangs on the shapes of products."""
    return Transcriber.from_checkpoint(checkpoint, DecodingConfig(ctc_weight=0.5), precision="fp32")


def test_a_recording_alone_and_among_others_has_one_text(transcriber: Transcriber) -> None:
    waveforms = [spoken("go"), np.tile(spoken("left"), 3), spoken("stop")[:4000]]
    together = transcriber.transcribe_waveforms(waveforms, ["a", "b", "c"])
    alone = [transcriber.transcribe((SAMPLE_RATE_HZ, waveform_N)) for waveform_N in waveforms]
    assert [one.text for one in together] == [one.text for one in alone]
    assert any(one.text for one in together), "an untrained model that writes nothing would test nothing"
    assert [one.name for one in together] == ["a", "b", "c"]


def test_letters_that_are_no_word_are_written_less_the_more_they_cost(checkpoint: Checkpoint) -> None:
    known = replace(checkpoint, lexicon=Lexicon(["go", "left", "stop"]))
    waveforms, names = [spoken("go"), np.tile(spoken("left"), 3)], ["a", "b"]
    unknown = []
    for model, cost in ((known, 0.0), (known, 2.0), (checkpoint, 2.0)):
        config = DecodingConfig(beam=8, ctc_weight=0.5, unknown_word=cost)
        found = Transcriber.from_checkpoint(model, config, precision="fp32").transcribe_waveforms(waveforms, names)
        unknown.append([word for one in found for word in one.text.split() if word not in known.lexicon])
    free, costly, without_lexicon = unknown
    assert len(costly) < len(free)
    assert without_lexicon == free


def test_texts_of_about_a_length_are_decoded_together(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = Transcriber.from_checkpoint(checkpoint, precision="fp32", batch_size=2)
    waveforms = [np.tile(spoken(word), n) for word, n in (("go", 4), ("left", 1), ("stop", 3), ("go", 1), ("left", 2))]
    batches: list[list[int]] = []

    def search(
        recogniser: Recogniser, memory: Memory, config: DecodingConfig, *, spelling: Spelling | None
    ) -> list[list[Hypothesis]]:
        batches.append(memory.lengths_B.tolist())
        return search_for(recogniser, memory, config, spelling=spelling)

    def written_first(log_probs_BMV: Floats, lengths_B: Ints) -> list[list[int]]:
        return [[4] * (100 - length) for length in lengths_B.tolist()]  # the longer the sound, the less is said

    monkeypatch.setattr("speechformer.transcribe.search", search)
    monkeypatch.setattr("speechformer.transcribe.ctc_greedy", written_first)
    together = transcriber.transcribe_waveforms(waveforms, [""] * 5)
    lengths = [length for lengths_B in batches for length in sorted(lengths_B, reverse=True)]
    assert [len(lengths_B) for lengths_B in batches] == [2, 2, 1]
    assert lengths == sorted(lengths, reverse=True)
    assert any(one.text for one in together)
    assert [one.text for one in together] == [
        transcriber.transcribe_waveforms([one], [""])[0].text for one in waveforms
    ]


def test_a_batch_has_no_more_padded_seconds_than_it_may_in_any_order() -> None:
    assert _batches([0, 1, 2, 3, 4], {0: 15, 1: 1, 2: 15, 3: 1, 4: 1}, 32) == [[0, 1, 2, 3], [4]]
    assert _batches([3, 1, 0], {0: 15, 1: 1, 3: 1}, 2) == [[3, 1], [0]]


@pytest.mark.parametrize("n_samples", [0, 160, 5 * SAMPLE_RATE_HZ])
def test_silence_and_next_to_nothing_have_no_text(transcriber: Transcriber, n_samples: int) -> None:
    transcript = transcriber.transcribe((SAMPLE_RATE_HZ, np.zeros(n_samples, np.float32)))
    assert transcript.text == ""
    assert transcript.duration_s == n_samples / SAMPLE_RATE_HZ


def test_ten_milliseconds_of_sound_have_no_text(transcriber: Transcriber) -> None:
    assert transcriber.transcribe((SAMPLE_RATE_HZ, spoken("go")[:160])).text == ""


def test_long_audio_is_cut_into_segments_the_model_knows(transcriber: Transcriber) -> None:
    waveform_N = np.tile(spoken("right"), 60)
    segments = transcriber.transcribe((SAMPLE_RATE_HZ, waveform_N)).segments
    assert len(segments) > 2
    assert segments[0].start_s == 0
    assert segments[-1].end_s == len(waveform_N) / SAMPLE_RATE_HZ
    assert all(before.end_s == after.start_s for before, after in itertools.pairwise(segments))
    assert all(one.end_s - one.start_s <= MAX_SPAN_S for one in segments)


def test_a_model_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such model folder; give a folder or one of: .*commands-en"):
        Transcriber.from_pretrained(tmp_path / "none")


def test_there_are_no_more_threads_than_processors(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    wanted = []
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("torch.set_num_threads", wanted.append)
    for threads in (2, 1_000_000, None):
        Transcriber.from_pretrained(tmp_path, engine="torch", threads=threads)
    assert wanted == [2, 3]


@pytest.mark.parametrize("phrases", [("go",), ("go", "stop", "left")])
def test_inside_a_command_set_there_is_a_command_of_it_or_a_refusal(
    transcriber: Transcriber, phrases: tuple[str, ...]
) -> None:
    chosen = transcriber.with_commands(Grammar.parse("\n".join(phrases), is_yaml=False))
    waveforms = [spoken("go"), spoken("right"), np.tile(spoken("left"), 3), np.zeros(8000, np.float32)]
    for one in chosen.transcribe_waveforms(waveforms, "abcd"):
        command = one.command
        assert command is not None
        assert {alternative.text for alternative in command.alternatives} <= set(phrases)
        assert one.text == (command.alternatives[0].text if command.accepted else "")
        assert sum(alternative.probability for alternative in command.alternatives) <= 1 + 1e-9
    assert one.command is not None
    assert one.command.status == "no_speech"


class Remembering(TorchRecogniser):
    """A recogniser that remembers how many frames of how many pieces it heard at once."""

    heard: list[list[int]]

    def listen(self, features_BTC: Floats, frames_B: Ints) -> Memory:
        self.heard.append(frames_B.tolist())
        return super().listen(features_BTC, frames_B)


def test_two_answers_that_are_nearly_as_likely_are_weighed_at_other_speeds(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Remembering(checkpoint.model)
    grammar = Grammar.parse("go\nstop now\nleft", is_yaml=False)
    chosen = Transcriber.from_checkpoint(checkpoint, commands=grammar, precision="fp32")
    chosen = Transcriber(chosen.settings, network, chosen.extract, commands=grammar)
    for least in ("COMMAND_THRESHOLD", "COMMAND_NEAR"):  # an untrained network is sure of nonsense
        monkeypatch.setattr(f"speechformer.command_search.{least}", 1e9)
    answers = {}
    for doubt in (-1.0, 1e9):
        monkeypatch.setattr("speechformer.command_search.DOUBT", doubt)
        network.heard = []
        command = chosen.transcribe((SAMPLE_RATE_HZ, np.tile(spoken("left"), 3))).command
        assert command is not None
        answers[doubt] = command.alternatives, network.heard
    (_, once), (alternatives, again) = answers[-1.0], answers[1e9]
    (first,), views = once[0], again[1]
    assert (len(once), again[0]) == (1, once[0])
    assert sorted(views) == pytest.approx([first / 1.1, first / 0.9], abs=3)  # edges are not stretched
    assert {one.text for one in alternatives} == {"go", "stop now", "left"}
    # With one command there is nothing to weigh.
    network.heard = []
    chosen.with_commands(Grammar.parse("go", is_yaml=False)).transcribe((SAMPLE_RATE_HZ, np.tile(spoken("left"), 3)))
    assert len(network.heard) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_command_is_the_same_alone_and_among_others(checkpoint: Checkpoint, precision: Precision) -> None:
    grammar = Grammar.parse("go\nstop now\nleft", is_yaml=False)
    chosen = Transcriber.from_checkpoint(checkpoint, commands=grammar, precision=precision)
    waveforms = [spoken("go"), np.tile(spoken("left"), 3), spoken("stop")[:4000]]
    together = [one.command for one in chosen.transcribe_waveforms(waveforms, "abc")]
    alone = [chosen.transcribe((SAMPLE_RATE_HZ, waveform_N)).command for waveform_N in waveforms]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert (one.status, one.heard) == (other.status, other.heard)
        assert [a.text for a in one.alternatives] == [a.text for a in other.alternatives]
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5 if precision == "fp32" else 0.01)


def test_recordings_come_out_as_soon_as_they_are_heard(
    transcriber: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "_hear", lambda pieces: [Heard("go")] * len(pieces))
    paths = [tmp_path / f"{i}.wav" for i in range(12)]
    for path in paths:
        write_wav(path, np.zeros(100 * SAMPLE_RATE_HZ, np.float32))
    n_read = []
    results = transcriber.transcribe_files(paths, lambda waveform_N, number: n_read.append(number) or waveform_N)
    held = [len(n_read) - i for i, _ in enumerate(results, 1)]
    assert max(held) <= 5
    assert len(held) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf61"}, "'bf61' is none of auto, int8, bf16, fp32"),
        ({"engine": "jax"}, "'jax' is none of auto, onnx, torch"),
        ({"engine": "torch", "precision": "int8"}, "torch computes in fp32 or bf16"),
        ({"engine": "onnx", "precision": "fp32"}, "was exported in int8; export it anew for fp32"),
        ({"engine": "onnx", "device": "cuda"}, "ONNX Runtime computes on the CPU here"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transcriber.from_pretrained(**settings)  # type: ignore[arg-type]


def test_lower_precision_leaves_the_model_as_it_is_and_computes_nearly_the_same(checkpoint: Checkpoint) -> None:
    import torch

    full, low = (Transcriber.from_checkpoint(checkpoint, precision=one).recogniser for one in ("fp32", "bf16"))
    assert isinstance(full, TorchRecogniser)
    assert isinstance(low, TorchRecogniser)
    assert full.model is checkpoint.model
    assert {weight.dtype for weight in full.model.parameters()} == {torch.float32}
    assert {weight.dtype for weight in low.model.parameters()} == {torch.bfloat16}
    assert low.model.rotary is not None
    assert low.model.rotary.frequency.dtype == torch.float32
    logits = []
    for model in (full.model, low.model):
        features_BTC = torch.randn(1, 50, 40, generator=torch.Generator().manual_seed(0))
        memory_BMD, _ = model.encode(features_BTC, torch.tensor([50]))
        logits.append(model.ctc_logits(memory_BMD).float())
    assert 0 < (logits[0] - logits[1]).abs().mean() < 0.02 * logits[0].abs().mean()


def test_files_are_transcribed_in_order_and_bad_ones_are_named(transcriber: Transcriber, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    for path in (paths[0], paths[3]):
        write_wav(path, spoken("go"))
    paths[1].write_bytes(b"no sound")
    numbers: list[int] = []

    def change(waveform_N: Waveform, number: int) -> Waveform:
        numbers.append(number)
        return np.zeros(0, np.float32) if number == 3 else waveform_N

    first, second, third, fourth = transcriber.transcribe_files(paths, change)
    assert isinstance(second, AudioError)
    assert isinstance(third, AudioError)
    assert str(paths[1]) in str(second)
    assert numbers == [0, 3]
    assert not isinstance(first, AudioError)
    assert not isinstance(fourth, AudioError)
    assert (first.name, fourth.name) == (str(paths[0]), str(paths[3]))
    assert first.text == transcriber.transcribe(paths[0]).text
    assert fourth.duration_s == 0


def test_without_a_command_set_there_is_no_command(transcriber: Transcriber) -> None:
    transcript = transcriber.transcribe((SAMPLE_RATE_HZ, spoken("go")))
    assert transcript.command is None
    assert "command" not in transcript.to_dict()["segments"][0]
