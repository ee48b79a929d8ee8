"""Fit what makes probabilities of scores, on real dev speech, and write it beside the model.

Every corpus is heard through its own grammar, through those of the others, and through halves of its words, so
that what is not a command ranges from a word that is missing to another domain; noise is heard through all. What
people read aloud is heard through command files made of some of those sentences, whole ones and templates with slots:
nobody's training has such commands, and the probabilities should hold for them, too.

What a voice sounds like to the network is fitted first, and its log odds are evidence like any other. Each sample has
those of a fit to the other speakers and noises, so that the heads take them for no surer than they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from scipy.special import expit, logit
from script import parser_of, status_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.augment import Sounds, add_noise, crop
from speechformer.command_search import CommandSearch, Meanings
from speechformer.confidence import Calibration, Evidence, Head, bounded
from speechformer.data import Row, read_manifest
from speechformer.decoding import Floats, Hypothesis
from speechformer.grammar import Grammar
from speechformer.model_folder import find_model, save_calibration
from speechformer.tokenizer import normalise
from speechformer.transcribe import MAX_SPAN_S, Transcriber
from speechformer.transcript import Command
from speechformer.trial import calibration_error

ROOT = Path(__file__).parents[2]
OWN = Path(__file__).parent / "grammars"
READY = ROOT / "assets" / "commands"
TRIALS = {
    "speech_commands": OWN / "speech_commands.txt",
    "fsdd": READY / "digits.yaml",
    "an4": OWN / "an4.yaml",
    "grid": OWN / "grid.yaml",
}
READ = ("common_voice", "kathleen", "ljspeech", "speechocean762")
READ_SETS = (12, 50, 50, 150, 150, 300)  # sentences of a command file made of what was read
STRANGERS = (*TRIALS.values(), READY / "home.yaml", READY / "computer.yaml", READY / "letters.yaml")
N_COMMANDS, N_OTHERS, N_HALVES, N_NOISE, N_READ = 400, 30, 4, 120, 150
N_SLOTS, N_VALUES = 2, 6  # of a template; other values of a slot
MISSING, OPTIONAL = 0.35, 0.5  # share of templates without what was said; share of slots that need not be filled
REFUSED, ENOUGH = 0.04, 0.4  # share of the right answers that may be refused; confidence that is always enough
UNHEARD, UNHEARD_AT_MOST = 0.01, 0.05  # share that may be taken for no speech; so that no noise is a command
SPARE = 0.1  # log odds of speech beyond those of the noise that is most like it
EVIDENCE_C, SOUND_C = 1.0, 0.1  # inverse strengths of regularisation; a sound has many more numbers
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """What one utterance showed, and what was true; `sound_D` is how it was heard as a whole."""

    evidence: list[float]
    sound_D: Floats
    speaker: str
    is_speech: bool
    is_command: bool
    is_right: bool


def templates(sentences: Sequence[str], words: Sequence[str], draw: np.random.Generator) -> str:
    """Make a command file of sentences: up to two words of each are slots, with some of `words` as their other values.

    A third of the templates lack one of the words that were said, so that what is said is very nearly a command.
    Half of the slots can be left out.
    """
    intents, lists = dict[str, list[str]](), dict[str, dict[str, list[str]]]()
    for i, sentence in enumerate(sentences):
        said = sentence.split()
        template, is_missing = list(said), draw.random() < MISSING
        places = draw.choice(len(said), min(N_SLOTS, len(said) // 3), replace=False)
        for number, place in enumerate(map(int, places)):
            values = {*draw.choice(words, N_VALUES).tolist(), said[place]}
            if is_missing and number == 0:
                values.remove(said[place])
            name = f"slot_{i}_{number}"
            lists[name] = {"values": sorted(values)}
            template[place] = f"[{{{name}}}]" if draw.random() < OPTIONAL else f"{{{name}}}"
        intents[f"sentence_{i}"] = [" ".join(template)]
    return str(yaml.safe_dump({"intents": intents, "lists": lists}))


def beginnings(sentences: Sequence[str]) -> str:
    """Make a list of phrases of sentences, whole, and of their first halves and on: each can end early.

    What can be left out at the end of a command is left out where it is heard badly, unless the search minds.
    """
    split = [sentence.split() for sentence in sentences]
    phrases = {" ".join(words[:n]) for words in split for n in range((len(words) + 1) // 2, len(words) + 1)}
    return "\n".join(sorted(phrases)) + "\n"


@dataclass(frozen=True)
class Noted(Command):
    """An answer, and the sound that it is an answer to."""

    sound_D: Floats


class NotingSearch(CommandSearch):
    """A search whose answers are noted."""

    def command(self, meanings: Meanings, free: Hypothesis, blank: float, sound_D: Floats) -> Noted:
        """Answer as ever."""
        return Noted(**vars(super().command(meanings, free, blank, sound_D)), sound_D=sound_D)


class Collector:
    """Hears recordings through grammars; every second one with noise."""

    def __init__(self, model: Path, noises: Sequence[Waveform], share: float = 1.0, seed: int = 0) -> None:
        self.transcriber, self.share = Transcriber.from_pretrained(model), share
        self.sounds, self.draw = Sounds(noises), np.random.default_rng(seed)

    def pick(self, rows: Sequence[Row], n: int) -> list[Row]:
        return [rows[int(i)] for i in self.draw.permutation(len(rows))[: round(self.share * n)]]

    def waveform(self, row: Row) -> Waveform:
        """Load a recording, half of the time with noise; a row without a path is noise."""
        if not row["audio_filepath"]:
            noise_N = self.sounds.noises[row["noise"]]
            if row["is_whole"]:
                return crop(noise_N, min(len(noise_N), int(MAX_SPAN_S * SAMPLE_RATE_HZ)), self.draw)
            return crop(noise_N, int(self.draw.uniform(1, 8) * SAMPLE_RATE_HZ), self.draw)
        waveform_N = load_audio(row["audio_filepath"])
        if self.draw.random() < 0.5:
            return waveform_N
        return add_noise(waveform_N, self.sounds.draw_noise(len(waveform_N), self.draw), self.draw.uniform(6, 24))

    def hear(self, grammar: Grammar, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield a sample a row."""
        transcriber = self.transcriber.with_commands(grammar)
        assert transcriber.command_search is not None
        transcriber.command_search = NotingSearch(**vars(transcriber.command_search))
        heard = transcriber.transcribe_waveforms([self.waveform(row) for row in rows], [""] * len(rows))
        for row, transcript in zip(rows, heard, strict=True):
            is_speech, command = bool(row["audio_filepath"]), transcript.command
            meaning = grammar.interpret(normalise(row["text"])) if is_speech else None
            if not isinstance(command, Noted) or not command.alternatives:
                continue
            best = command.alternatives[0]
            right = meaning is not None and (best.intent, best.slots) == (meaning.intent, meaning.slots)
            evidence = [command.numbers[part.name] for part in fields(Evidence)]
            yield Sample(evidence, command.sound_D, row["speaker"], is_speech, meaning is not None, right)

    def collect(self, dev: Path) -> Iterator[Sample]:
        corpora = {path.stem: read_manifest(path) for path in sorted(dev.glob("*.jsonl")) if path.stem != "synthetic"}
        for name, path in TRIALS.items():
            yield from self.hear(Grammar.load(path), self.pick(corpora[name], N_COMMANDS))
        words = sorted({row["text"] for row in corpora["speech_commands"]})
        for _ in range(N_HALVES):
            half = [words[int(i)] for i in self.draw.permutation(len(words))[: len(words) // 2]]
            grammar = Grammar.parse("\n".join(half), is_yaml=False)
            yield from self.hear(grammar, self.pick(corpora["speech_commands"], N_COMMANDS // 2))
        n_noises = len(self.sounds.noises)
        numbers = self.draw.permutation(n_noises)[: round(self.share * N_NOISE)].tolist()
        noises = [
            {"audio_filepath": "", "text": "", "speaker": f"noise {i}", "noise": i, "is_whole": False}
            for i in range(n_noises)
        ]
        noise = [noises[i] for i in numbers]
        for path in STRANGERS:
            others = [row for rows in corpora.values() for row in self.pick(rows, N_OTHERS)]
            yield from self.hear(Grammar.load(path), [*others, *noise])
        # Through a list of single words a sneeze is as near to one of them as what is heard freely.
        whole = [{**row, "is_whole": True} for row in noises[:: max(1, round(1 / self.share))]]
        yield from self.hear(Grammar.load(TRIALS["speech_commands"]), whole)
        yield from self.collect_read([row for name in READ for row in corpora[name]])

    def collect_read(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Hear what was read through sets of whole sentences, of templates, and of sentences that can end early."""
        sentences = sorted({row["text"] for row in rows})
        words = sorted({word for sentence in sentences for word in sentence.split()})
        with_slots = partial(templates, words=words, draw=self.draw)
        for n_sentences in READ_SETS:
            for make, is_yaml in (("\n".join, False), (with_slots, True), (beginnings, False)):
                some = [sentences[int(i)] for i in self.draw.permutation(len(sentences))[:n_sentences]]
                source = make(some)
                declared = self.pick([row for row in rows if row["text"] in some], N_READ)
                others = self.pick([row for row in rows if row["text"] not in some], 2 * N_OTHERS)
                yield from self.hear(Grammar.parse(source, is_yaml=is_yaml), [*declared, *others])


def fit(chosen: Sequence[Sample], part: str, by: str = "evidence") -> tuple[Head, Values, Values]:
    """Return a head, and its log odds for speakers that it was not fitted on, with what was true."""
    x, y = (np.array([getattr(one, name) for one in chosen]) for name in (by, part))
    mean, scale = x.mean(0), x.std(0) + 1e-6
    model = LogisticRegression(C=EVIDENCE_C if by == "evidence" else SOUND_C, max_iter=2000)
    groups = [one.speaker for one in chosen]
    x = (x - mean) / scale
    unseen = cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(5), method="decision_function")
    model.fit(x, y)
    weights = model.coef_[0] / scale
    head = Head(tuple(map(float, weights)), float(model.intercept_[0] - weights @ mean))
    return head, unseen, y.astype(float)


def with_voice(samples: Sequence[Sample]) -> tuple[Head, list[Sample]]:
    """Return what a voice sounds like, and the samples with how much each is like one to those who did not know it."""
    head, unseen, _ = fit(samples, "is_speech", "sound_D")
    pairs = zip(samples, unseen.tolist(), strict=True)
    heard = ((one, replace(Evidence(*one.evidence), voice=bounded(odds))) for one, odds in pairs)
    return head, [replace(one, evidence=list(astuple(evidence))) for one, evidence in heard]


def thresholds(calibration: Calibration, samples: Sequence[Sample]) -> Calibration:
    """Set the thresholds, low enough to spare most of the right answers.

    Who has a command set mostly says commands, more often than half of the time as here, so less than one half is
    enough; where nobody spoke, nothing must happen: a little more of what is said may be lost for that, if it is short.
    """
    judged = [(calibration.judge(Evidence(*one.evidence)), one) for one in samples]
    confidences = [one.confidence for one, sample in judged if sample.is_right]
    least = min(ENOUGH, float(np.quantile(confidences, REFUSED)))
    fitted = replace(calibration, min_confidence=least)
    for name, is_short in (("min_speech", True), ("min_speech_longer", False)):
        chosen = [pair for pair in judged if Evidence(*pair[1].evidence).is_short == is_short]
        right = [one.speech for one, sample in chosen if sample.is_right]
        noise = [one.speech for one, sample in chosen if not sample.is_speech and one.confidence >= least]
        fitted = replace(fitted, **{name: least_speech(right, noise)})
    return fitted


def least_speech(right: Sequence[float], noise: Sequence[float]) -> float:
    """Return from which probability of speech on there was some, of those of right answers and of noise accepted else.

    Where no noise would be accepted what is more likely speech than not is enough, else what lies in the middle, in log
    odds, between the noise that is most like speech and what few of the right answers have less than.
    """
    usual, most = np.quantile(right, (UNHEARD, UNHEARD_AT_MOST)).tolist()
    if not noise:
        return min(0.5, usual)
    above = float(logit(max(noise))) + SPARE
    return min(float(expit(max(above, (above + logit(usual)) / 2))), most)


def main() -> int:
    """Read the command line and calibrate."""
    parser = parser_of(__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument("--share", type=share, default=1.0, help="share of the recordings to hear (1)")
    args = parser.parse_args()
    return status_of("calibrate", lambda: calibrate(args))


def share(text: str) -> float:
    """Read how much of the recordings is heard."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 1")
    return float(text)


def calibrate(args: argparse.Namespace) -> None:
    """Hear the recordings, fit, write, and tell what would be refused."""
    noises = [load_audio(row["audio_filepath"]) for row in read_manifest(args.data / "train" / "_noise.jsonl")]
    model = find_model(args.model)
    samples = list(Collector(model, noises, args.share).collect(args.data / "dev"))
    voice, samples = with_voice(samples)
    calibration = Calibration(voice=voice, fitted_on=f"{len(samples)} recordings of dev speakers")
    for name, part, among in (
        ("speech", "is_speech", None),
        ("command", "is_command", "is_speech"),
        ("right", "is_right", "is_command"),
    ):
        chosen = [one for one in samples if among is None or getattr(one, among)]
        head, unseen, true = fit(chosen, part)
        calibration = replace(calibration, **{name: head})
        error = calibration_error(expit(unseen).tolist(), (true > 0).tolist())
        print(f"{name}: {len(true)} samples, {true.mean():.2f} true, calibration error on unseen speakers {error:.3f}")
    calibration = thresholds(calibration, samples)
    for name, chosen in (
        ("right answers", [one for one in samples if one.is_right]),
        ("wrong answers to commands", [one for one in samples if one.is_command and not one.is_right]),
        ("other speech", [one for one in samples if one.is_speech and not one.is_command]),
        ("no speech", [one for one in samples if not one.is_speech]),
    ):
        refused = [calibration.judge(Evidence(*one.evidence)).status != "accepted" for one in chosen]
        print(f"{name}: {len(chosen)}, refused {np.mean(refused):.3f}")
    print(
        f"speech from a probability of {calibration.min_speech:.4f} on, {calibration.min_speech_longer:.4f} if longer"
    )
    print(f"accepted from a confidence of {calibration.min_confidence:.2f} on")
    save_calibration(model, calibration)


if __name__ == "__main__":
    sys.exit(main())
