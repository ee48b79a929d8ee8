"""The model that is shipped: small, found without a network, and right about the samples."""

from pathlib import Path

import numpy as np
import pytest

from speechformer import Transcriber
from speechformer.audio import load_audio
from speechformer.decoding import Floats, Ints, Memory
from speechformer.model_folder import find_model

ASSETS = sorted((Path(__file__).parents[1] / "assets").glob("*.wav"))


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    """The default model."""
    return Transcriber.from_pretrained()


def test_it_is_small_and_has_a_card() -> None:
    parts = {path.name: path.stat().st_size for path in find_model().iterdir()}
    assert parts.keys() == {
        "config.json", "model.safetensors", "tokenizer.model", "calibration.json", "MODEL_CARD.md",
        "encoder.onnx", "decoder.onnx", "filters.safetensors", "lexicon.txt",
    }  # fmt: skip
    assert sum(parts.values()) <= 30e6


def test_it_knows_the_words_of_commands(transcriber: Transcriber) -> None:
    known = transcriber.settings.lexicon
    assert {"show", "me", "my", "files", "please", "don't", "o'clock"} <= {*known.words}
    assert "greating" not in known


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.stem)
def test_it_writes_what_the_samples_say(transcriber: Transcriber, path: Path) -> None:
    assert transcriber.transcribe(path).text == path.stem.replace("-", " ")


@pytest.mark.parametrize("path", ASSETS[:3], ids=lambda path: path.stem)
def test_waiting_before_and_after_changes_nothing_but_the_times(path: Path) -> None:
    transcriber = Transcriber.from_pretrained(word_times=True)
    sample_N = load_audio(path)
    hiss_N = 0.0005 * np.random.default_rng(0).standard_normal(len(sample_N) + 5 * 16_000).astype(np.float32)
    waited_N = np.pad(sample_N, (3 * 16_000, 2 * 16_000)) + hiss_N
    heard, waited = (transcriber.transcribe((16_000, one_N)) for one_N in (sample_N, waited_N))
    assert waited.text == heard.text
    assert waited.duration_s == pytest.approx(heard.duration_s + 5)
    for one, later in zip(heard.segments[0].words, waited.segments[0].words, strict=True):
        assert (later.start_s, later.end_s) == pytest.approx((one.start_s + 3, one.end_s + 3), abs=0.2)


@pytest.mark.parametrize("path", ASSETS[:3], ids=lambda path: path.stem)
def test_seconds_of_noise_around_speech_are_not_heard(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample_N = load_audio(path)
    noise_N = np.random.default_rng(0).standard_normal(len(sample_N) + 9 * 16_000).astype(np.float32)
    noisy_N = np.pad(sample_N, (5 * 16_000, 4 * 16_000)) + 0.2 * sample_N.std() * noise_N
    transcriber = Transcriber.from_pretrained(word_times=True)
    listen, positions = transcriber.recogniser.listen, list[int]()

    def listening(features_BTC: Floats, frames_B: Ints) -> Memory:
        memory = listen(features_BTC, frames_B)
        positions.extend(memory.lengths_B.tolist())
        return memory

    monkeypatch.setattr(transcriber.recogniser, "listen", listening)
    heard = transcriber.transcribe((16_000, noisy_N))
    assert heard.text == path.stem.replace("-", " ")
    assert len(positions) == 2
    assert positions[1] < positions[0] - 2 * 25
    assert all(4.5 < word.start_s < word.end_s < 5.5 + len(sample_N) / 16_000 for word in heard.segments[0].words)


def test_there_are_samples() -> None:
    assert len(ASSETS) >= 5


@pytest.mark.parametrize("level", [0.0, 0.003])
def test_it_writes_nothing_for_silence_and_hiss(transcriber: Transcriber, level: float) -> None:
    hiss_N = level * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    assert transcriber.transcribe((16_000, hiss_N)).text == ""


@pytest.mark.parametrize(
    ("name", "sample", "intent", "slots"),
    [
        ("home", "turn-off-the-bedroom-light", "SwitchLights", {"state": "off", "area": "bedroom"}),
        ("timers", "set-a-timer-for-five-minutes", "SetTimer", {"minutes": 5}),
        ("digits", "seven-three-nine-two", "Digits", {"digits": "seven three nine two"}),
    ],
)
def test_it_understands_its_commands_and_refuses_the_others(
    transcriber: Transcriber, name: str, sample: str, intent: str, slots: dict[str, str | int]
) -> None:
    commands = Path(__file__).parents[1] / "assets" / "commands" / f"{name}.yaml"
    listener = transcriber.with_commands(commands)
    answers = {path.stem: listener.transcribe(path).command for path in ASSETS}
    accepted = {stem for stem, command in answers.items() if command and command.accepted}
    assert accepted == {sample}
    command = answers[sample]
    assert command is not None
    assert (command.alternatives[0].intent, command.alternatives[0].slots) == (intent, slots)
    assert command.confidence > 0.5
