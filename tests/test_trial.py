"""A command set on trial: every rate from answers that were written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speechformer.audio import SAMPLE_RATE_HZ, write_wav
from speechformer.checkpoint import Checkpoint
from speechformer.errors import AudioError, SpeechformerError
from speechformer.features import FeatureConfig
from speechformer.grammar import Grammar, Interpretation
from speechformer.model import SpeechTransformer
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer
from speechformer.transcribe import Transcriber
from speechformer.transcript import Alternative, Command, Segment, Status, Transcript
from speechformer.trial import (
    Noises,
    Outcome,
    Rooms,
    calibration_error,
    figures,
    hold,
    interval,
    risk_at_coverage,
    surround,
    write,
)
from tests.conftest import WORDS, spoken

GO, STOP = Interpretation("go"), Interpretation("stop", {"now": True})


def outcome(
    said: str, expected: Interpretation | None, answer: Interpretation | None, status: Status = "accepted",
    confidence: float = 0.9, hours: float = 0.5,
) -> Outcome:  # fmt: skip
    alternatives = (Alternative(answer.intent, answer.intent, answer.slots, confidence),) if answer else ()
    command = Command(status, confidence, alternatives, said, {})
    text = answer.intent if answer and status == "accepted" else ""
    seconds = hours * 3600
    return Outcome(
        "a.wav", said, expected, Transcript("a.wav", text, seconds, 1.0, (Segment(text, 0, seconds, -1, command),))
    )


def test_rates_of_commands() -> None:
    result = figures([
        outcome("go", GO, GO),
        outcome("go", GO, STOP),
        outcome("stop", STOP, STOP, "unsure", 0.4),
        outcome("stop", STOP, Interpretation("stop"), "not_a_command", 0.1),  # a slot is wrong
    ])  # fmt: skip
    assert result["commands_n"] == 4
    assert result["words_n"] == 4
    assert result["accuracy"] == 1 / 4
    assert result["accuracy_without_refusal"] == 2 / 4
    assert result["wrong_accepted"] == 1 / 4
    assert result["right_refused"] == 1 / 2
    assert result["refused_as"] == {"unsure": 1 / 4, "not_a_command": 1 / 4, "no_speech": 0}
    assert result["word_error_rate"] == 1 / 4
    assert "other_speech_n" not in result


def test_rates_of_what_is_no_command() -> None:
    result = figures([
        outcome("hello", None, GO),
        outcome("hello there", None, GO, "not_a_command", 0.2),
        outcome("", None, GO, "no_speech", 0.1, hours=2),
        outcome("", None, GO, "accepted", 0.8, hours=2),
    ])  # fmt: skip
    assert result["other_speech_refused"] == 1 / 2
    assert result["other_speech_false_accepts_per_hour"] == 1.0
    assert result["no_speech_refused"] == 1 / 2
    assert result["no_speech_false_accepts_per_hour"] == 1 / 4
    assert result["no_speech_words"] == 1
    assert "commands_n" not in result


def test_calibration_error_of_known_answers() -> None:
    assert calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False]) == pytest.approx(0)
    assert calibration_error([1.0, 1.0], [True, False]) == pytest.approx(0.5)
    assert calibration_error([0.1, 0.9], [True, False]) == pytest.approx(0.9)


def test_the_most_confident_answers_are_counted_first() -> None:
    answers = [(1 - i / 10, i < 8) for i in range(10)]
    assert risk_at_coverage(answers) == pytest.approx({"50": 0, "80": 0, "90": 1 / 9, "95": 0.2, "100": 0.2})


def test_an_interval_holds_its_share() -> None:
    low, high = interval(9, 10)
    assert 0 < low < 0.9 < high < 1


def test_text_and_json_say_the_same() -> None:
    results = {"clean": figures([outcome("go", GO, GO), outcome("hm", None, GO, "no_speech")])}
    assert json.loads(write(results, "json"))["clean"]["accuracy"] == 1
    text = write(results, "txt")
    assert "right and accepted" in text
    assert "100.0 %" in text


@pytest.fixture(scope="module")
def transcriber(tokenizer: Tokenizer) -> Transcriber:
    """An untrained model with a command set of three of the four words."""
    config = ModelConfig(vocab_size=len(tokenizer), d_model=16, d_ff=32, n_heads=2, n_encoder_layers=1)
    model = SpeechTransformer(config).eval().requires_grad_(False)
    checkpoint = Checkpoint(model, FeatureConfig(), tokenizer)
    return Transcriber.from_checkpoint(checkpoint, commands=Grammar.parse("go\nstop\nleft", is_yaml=False))


def test_every_recording_gets_an_answer_and_a_bad_one_an_error(transcriber: Transcriber, tmp_path: Path) -> None:
    rows = []
    for word in WORDS:
        write_wav(tmp_path / f"{word}.wav", spoken(word))
        rows.append({"audio_filepath": str(tmp_path / f"{word}.wav"), "text": word})
    rows.append({"audio_filepath": str(tmp_path / "missing.wav"), "text": "go"})
    results = list(hold(transcriber, rows))
    assert isinstance(results[-1], AudioError)
    outcomes = [one for one in results if isinstance(one, Outcome)]
    assert [one.said for one in outcomes] == list(WORDS)
    assert [one.expected is None for one in outcomes] == [word == "right" for word in WORDS]
    assert all(one.command.status for one in outcomes)


def test_noise_is_mixed_at_the_ratio_that_is_asked_for_and_is_the_same_each_time(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    write_wav(tmp_path / "hiss.wav", 0.1 * draw.standard_normal(SAMPLE_RATE_HZ).astype(np.float32))
    speech_N = spoken("go")
    mixed_N = Noises(tmp_path, {".wav"}).mix(speech_N, 3, 6.0)
    added_N = mixed_N - speech_N
    assert 20 * np.log10(np.std(speech_N) / np.std(added_N)) == pytest.approx(6, abs=0.2)
    np.testing.assert_array_equal(Noises(tmp_path, {".wav"}).mix(speech_N, 3, 6.0), mixed_N)
    assert np.abs(Noises(tmp_path, {".wav"}).mix(speech_N, 4, 6.0) - mixed_N).max() > 0


def test_silence_around_a_recording_is_faint_noise_the_same_each_time() -> None:
    speech_N = spoken("go")
    quiet_N = surround(speech_N, 3, 0.5)
    edge = SAMPLE_RATE_HZ // 2
    assert len(quiet_N) == len(speech_N) + 2 * edge
    for part_N in (quiet_N[:edge], quiet_N[edge:-edge] - speech_N, quiet_N[-edge:]):
        assert 20 * np.log10(np.sqrt(np.mean(speech_N**2)) / np.std(part_N)) == pytest.approx(35, abs=0.5)
    np.testing.assert_array_equal(surround(speech_N, 3, 0.5), quiet_N)
    assert not surround(np.zeros(0, np.float32), 0, 0.5).any()


def test_a_folder_without_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechformerError, match="no audio files"):
        Noises(tmp_path, {".wav"})


def test_rooms_are_drawn_by_number_and_keep_length_and_level(tmp_path: Path) -> None:
    for place, delay in enumerate((800, 3_000)):
        response_N = np.zeros(4_000, np.float32)
        response_N[0], response_N[delay] = 0.9, 0.45
        write_wav(tmp_path / f"{place}.wav", response_N)
    speech_N, rooms = spoken("go"), Rooms(tmp_path, {".wav"}, seed=1)
    heard = [rooms.hear(speech_N, number) for number in range(8)]
    assert len({one.tobytes() for one in heard}) == 2
    np.testing.assert_array_equal(Rooms(tmp_path, {".wav"}, seed=1).hear(speech_N, 3), heard[3])
    for one in heard:
        assert len(one) == len(speech_N)
        assert np.sqrt(np.mean(one**2)) == pytest.approx(np.sqrt(np.mean(speech_N**2)), rel=1e-3)
    assert not len(rooms.hear(np.zeros(0, np.float32), 0))
