"""Put a command set on trial: recordings with what was said → how often the answer was right, wrong, or refused.

A row of a manifest is a command if the grammar has its text, speech that is none if not, and no speech at all
if its text is empty or missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.augment import add_noise, add_room, crop
from speechformer.data import Row
from speechformer.errors import AudioError, SpeechformerError
from speechformer.grammar import Interpretation
from speechformer.metrics import score
from speechformer.tokenizer import normalise
from speechformer.transcribe import Transcriber
from speechformer.transcript import Command, Status, Transcript

N_BINS = 10
QUIET_DB = 35.0
REFUSALS: tuple[Status, ...] = ("unsure", "not_a_command", "no_speech")


@dataclass(frozen=True)
class Outcome:
    """One recording: what was said (`expected` is None where that is no command), what was answered."""

    name: str
    said: str
    expected: Interpretation | None
    transcript: Transcript
    snr_db: float | None = None

    @property
    def command(self) -> Command:
        """The answer."""
        assert self.transcript.command is not None
        return self.transcript.command

    @property
    def best_is_right(self) -> bool:
        """Whether the most probable command means what was said, accepted or not."""
        best = self.command.alternatives[:1]
        return self.expected is not None and any(
            one.intent == self.expected.intent and one.slots == self.expected.slots for one in best
        )


class Sounds:
    """Recordings to hear others with, from a folder of audio files; its number decides which a row gets."""

    what = "sounds"

    def __init__(self, folder: Path, suffixes: set[str], seed: int = 0) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        self.seed = seed
        if not self.paths:
            raise SpeechformerError(f"{folder}: holds no audio files of {self.what}; give another folder")
        self.loaded: dict[Path, Waveform] = {}

    def draw(self, number: int) -> tuple[Waveform, np.random.Generator]:
        """Return a row's recording, and what draws the rest."""
        draw = np.random.default_rng((self.seed, number))
        path = self.paths[int(draw.integers(len(self.paths)))]
        if path not in self.loaded:
            try:
                self.loaded[path] = load_audio(path)
            except AudioError as error:
                raise SpeechformerError(f"{error}; take it out of the folder of {self.what}") from error
        return self.loaded[path], draw


class Noises(Sounds):
    """Noises to mix in; each row gets a stretch that its number decides."""

    what = "noise"

    def mix(self, waveform_N: Waveform, number: int, snr_db: float) -> Waveform:
        """Add noise at a ratio of speech to noise power in decibels."""
        noise_N, draw = self.draw(number)
        return add_noise(waveform_N, crop(noise_N, len(waveform_N), draw), snr_db)

    def changer(self, snr_db: float) -> Callable[[Waveform, int], Waveform]:
        """Return what mixes noise into numbered recordings at one ratio."""
        return lambda waveform_N, number: self.mix(waveform_N, number, snr_db)


class Rooms(Sounds):
    """Impulse responses of rooms to be heard in."""

    what = "impulse responses"

    def hear(self, waveform_N: Waveform, number: int) -> Waveform:
        """Return a recording as a microphone in one of the rooms hears it."""
        return add_room(waveform_N, self.draw(number)[0]) if len(waveform_N) else waveform_N


def surround(waveform_N: Waveform, number: int, silence_s: float) -> Waveform:
    """Lay quiet before and after a recording, as who starts and stops it by hand does; `number` decides its noise.

    All of it then has white noise `QUIET_DB` under the recording's level: nowhere is digital silence.
    """
    level = np.sqrt(np.mean(np.square(waveform_N))) if len(waveform_N) else np.float32(0)
    waited_N = np.pad(waveform_N, round(silence_s * SAMPLE_RATE_HZ))
    hiss_N = np.random.default_rng(number).standard_normal(len(waited_N), np.float32)
    return waited_N + np.float32(level * 10 ** (-QUIET_DB / 20)) * hiss_N


def hold(
    transcriber: Transcriber,
    rows: Sequence[Row],
    change: Callable[[Waveform, int], Waveform] | None = None,
    snr_db: float | None = None,
) -> Iterator[Outcome | AudioError]:
    """Answer every recording with the transcriber's command set, in groups; yield in order."""
    assert transcriber.commands is not None
    grammar = transcriber.commands.grammar
    results = transcriber.transcribe_files([row["audio_filepath"] for row in rows], change)
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, AudioError):
            yield result
        else:
            said = normalise(row.get("text", ""))
            yield Outcome(result.name, said, grammar.interpret(said), result, snr_db)


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the rates of a trial; each with how many recordings or hours it is of."""
    commands = [one for one in outcomes if one.expected is not None]
    others = [one for one in outcomes if one.expected is None and one.said]
    noise = [one for one in outcomes if not one.said]
    result: dict[str, Any] = {}
    if commands:
        result |= _of_commands(commands)
    for name, part in (("other_speech", others), ("no_speech", noise)):
        if part:
            accepted = [seg for one in part for seg in one.transcript.segments if seg.command and seg.command.accepted]
            refused = sum(not any(s.command and s.command.accepted for s in one.transcript.segments) for one in part)
            hours = sum(one.transcript.duration_s for one in part) / 3600
            result |= {
                f"{name}_n": len(part), f"{name}_hours": hours, f"{name}_refused": refused / len(part),
                f"{name}_refused_interval": interval(refused, len(part)),
                f"{name}_refused_as": _refusals(part),
                f"{name}_false_accepts_per_hour": len(accepted) / hours if hours else 0.0,
                f"{name}_words": sum(len(seg.text.split()) for one in part for seg in one.transcript.segments),
            }  # fmt: skip
    answered = [one for one in outcomes if one.said]
    if answered:
        result["calibration_error"] = calibration_error(
            [one.command.confidence for one in answered], [one.best_is_right for one in answered]
        )
    return result


def _of_commands(commands: Sequence[Outcome]) -> dict[str, Any]:
    n = len(commands)
    right = [one for one in commands if one.best_is_right]
    accepted = [one for one in commands if one.command.accepted]
    best = [one.command.alternatives[0].text if one.command.alternatives else "" for one in commands]
    n_right = sum(one.best_is_right for one in accepted)
    scored = score([one.said for one in commands], best)
    return {
        "commands_n": n,
        "words_n": scored.n_words,
        "accuracy": n_right / n,
        "accuracy_interval": interval(n_right, n),
        "accuracy_without_refusal": len(right) / n,
        "accuracy_without_refusal_interval": interval(len(right), n),
        "word_error_rate": scored.wer,
        "wrong_accepted": (len(accepted) - n_right) / n,
        "right_refused": sum(not one.command.accepted for one in right) / max(1, len(right)),
        "right_refused_as": _refusals(right),
        "refused_as": _refusals(commands),
        "risk_at_coverage": risk_at_coverage([(one.command.confidence, one.best_is_right) for one in commands]),
    }


def _refusals(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of each answer that is no acceptance; `unsure` asks back, and names what it could be."""
    statuses = [one.command.status for one in outcomes]
    return {status: statuses.count(status) / max(1, len(statuses)) for status in REFUSALS}


def interval(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    limits = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    return float(limits.low), float(limits.high)


def calibration_error(confidences: Sequence[float], right: Sequence[bool], n_bins: int = N_BINS) -> float:
    """Return the expected calibration error in bins of equal width (Guo et al. 2017, equation 3)."""
    bins = np.minimum((np.asarray(confidences) * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bins, np.asarray(confidences) - np.asarray(right, float), n_bins)
    return float(np.abs(gap).sum() / len(bins))


def risk_at_coverage(answers: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Return the share of wrong answers among the most confident 50, 80, 90, 95 and 100 %."""
    ordered = [right for _, right in sorted(answers, key=lambda answer: -answer[0])]
    parts = {share: max(1, round(share * len(ordered) / 100)) for share in (50, 80, 90, 95, 100)}
    return {str(share): 1 - sum(ordered[:n]) / n for share, n in parts.items()}


def write(results: dict[str, dict[str, Any]], form: str) -> str:
    """Return the figures of one or more conditions as text or JSON."""
    if form == "json":
        return json.dumps(results, indent=2) + "\n"
    return "\n".join(f"{condition}\n" + "".join(map(_line, _told(result))) for condition, result in results.items())


def _line(row: tuple[str, str]) -> str:
    return f"  {row[0]:<32}{row[1]}\n"


def _told(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def percent(key: str) -> str:
        low_high = result.get(f"{key}_interval")
        span = f"  (95 % interval {100 * low_high[0]:.1f}–{100 * low_high[1]:.1f})" if low_high else ""
        return f"{100 * result[key]:.1f} %{span}"

    def shares(key: str) -> str:
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in result[key].items())

    if "commands_n" in result:
        yield "commands", str(result["commands_n"])
        yield "right and accepted", percent("accuracy")
        yield "right, were none refused", percent("accuracy_without_refusal")
        yield "word error rate", percent("word_error_rate")
        yield "wrong and accepted", percent("wrong_accepted")
        yield "of the right ones, refused", f"{percent('right_refused')}  ({shares('right_refused_as')})"
        yield "refused as", shares("refused_as")
        risks = (f"{share} %: {100 * risk:.1f}" for share, risk in result["risk_at_coverage"].items())
        yield "wrong among the most confident", ", ".join(risks)
    for key, name in (("other_speech", "other speech"), ("no_speech", "no speech")):
        if f"{key}_n" in result:
            yield name, f"{result[f'{key}_n']} recordings, {result[f'{key}_hours']:.2f} h"
            yield "  refused", percent(f"{key}_refused")
            yield "  refused as", shares(f"{key}_refused_as")
            yield "  false accepts an hour", f"{result[f'{key}_false_accepts_per_hour']:.1f}"
    if "calibration_error" in result:
        yield "expected calibration error", f"{result['calibration_error']:.3f}"
