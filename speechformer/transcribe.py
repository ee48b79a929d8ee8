"""The public Python API: a model folder and audio in, transcripts out.

transcriber = Transcriber.from_pretrained()
transcript = transcriber.transcribe("command.wav")

With a command set, an utterance is one of its commands or refused:

transcriber = Transcriber.from_pretrained(commands="assets/commands/home.yaml")
command = transcriber.transcribe("command.wav").command
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from speechformer.alignment import Span, align, confidence, seconds, word_groups
from speechformer.audio import SAMPLE_RATE_HZ, AudioSource, Waveform, load_audio, read_spans, spans
from speechformer.automaton import TokenAutomaton
from speechformer.checkpoint import Checkpoint, find_model, load_checkpoint
from speechformer.confidence import share, weigh
from speechformer.decoding import DecodingConfig, Hypothesis, Task, search_together
from speechformer.errors import AudioError, ConfigError
from speechformer.features import FRAMES_PER_S, collate, extract
from speechformer.grammar import Grammar, Interpretation
from speechformer.model import has_fast_bfloat16, in_bfloat16
from speechformer.tokenizer import PAD as BLANK
from speechformer.transcript import Alternative, Command, Segment, Status, Transcript, Word

MAX_SPAN_S = 15.0  # training utterances of up to 16 s were heard
BATCH_S = 200.0
GROUP, GROUP_S = 64, 480.0  # spans, and their seconds, that are decoded together
FREE = DecodingConfig(beam=4, ctc_weight=0.1)  # the best on dev speech
BESIDE_COMMANDS = DecodingConfig()  # that search only has to say how well anything else would fit
COMMAND_BEAM, N_BEST = 8, 5
SILENCE = 1e-4  # a peak below −80 dBFS is under the noise of any microphone: there is nothing to hear

Commands = Grammar | str | os.PathLike[str]
Precision = Literal["auto", "fp32", "bf16"]


NOTHING = Hypothesis((), 0.0, ())


@dataclass(frozen=True)
class Heard:
    """What was made of one piece of sound: the text, the hypothesis behind it, and the command."""

    text: str = ""
    hypothesis: Hypothesis = NOTHING
    command: Command | None = None
    words: tuple[Word, ...] = ()

    def segment(self, start_s: float, length_s: float) -> Segment:
        """Return it as a stretch of its recording."""
        end_s = start_s + length_s
        words = tuple(
            replace(word, start_s=min(end_s, start_s + word.start_s), end_s=min(end_s, start_s + word.end_s))
            for word in self.words
        )
        return Segment(self.text, start_s, end_s, self.hypothesis.log_probability, self.command, words)


@dataclass
class _Recording:
    """What is known of a recording so far."""

    name: str
    n_samples: int = 0
    elapsed_s: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    error: AudioError | None = None

    def result(self) -> Transcript | AudioError:
        if self.error:
            return self.error
        return Transcript(
            name=self.name,
            text=" ".join(one.text for one in self.segments if one.text),
            duration_s=self.n_samples / SAMPLE_RATE_HZ,
            elapsed_s=self.elapsed_s,
            segments=tuple(self.segments),
        )


class Transcriber:
    """A loaded model, with or without a command set (a file, or a Grammar that was loaded).

    It computes in float32, or in bfloat16 where the hardware is fast at that (`precision="auto"`). With `word_times`
    segments have words.
    One can serve many threads: nothing is kept between calls but what was seen of the command set.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoding: DecodingConfig | None = None,
        device: str = "cpu",
        commands: Commands | None = None,
        precision: Precision = "auto",
        word_times: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(f"precision is auto, fp32 or bf16, not {precision!r}")
        self.word_times = word_times
        self.checkpoint, self.device, self.precision = checkpoint, device, precision
        fast = precision == "auto" and has_fast_bfloat16(device)
        self.model = in_bfloat16(checkpoint.model) if fast or precision == "bf16" else checkpoint.model
        self.decoding = decoding or (BESIDE_COMMANDS if commands else FREE)
        if commands is not None and not isinstance(commands, Grammar):
            commands = Grammar.load(commands)
        self.commands = TokenAutomaton(commands, checkpoint.tokenizer) if commands else None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        decoding: DecodingConfig | None = None,
        device: str = "cpu",
        commands: Commands | None = None,
        precision: Precision = "auto",
        word_times: bool = False,
    ) -> Transcriber:
        """Load a shipped model by name, or a model folder; the default needs no network.

        Raises CheckpointError, naming the part of the folder that is missing or damaged.
        """
        return cls(load_checkpoint(find_model(model), device), decoding, device, commands, precision, word_times)

    def transcribe(self, source: AudioSource) -> Transcript:
        """Transcribe a path, bytes, an open binary file or a (rate, array) pair.

        Raises AudioError for what is not audio. Silence gives an empty text.
        """
        if not isinstance(source, str | os.PathLike):
            return self.transcribe_waveforms([load_audio(source)], [type(source).__name__])[0]
        (result,) = self.transcribe_files([source])
        if isinstance(result, AudioError):
            raise result
        return result

    def transcribe_files(
        self, paths: Sequence[str | os.PathLike[str]], change: Callable[[Waveform, int], Waveform] | None = None
    ) -> Iterator[Transcript | AudioError]:
        """Transcribe files; yield, in order, a transcript or why there is none.

        Files of any length are read as they are needed, and decoded in batches across files. `change` makes another
        `waveform_N` of a file's and its number, such as one with noise.
        """

        def changed(path: str | os.PathLike[str], number: int) -> Iterator[tuple[int, Waveform]]:
            assert change is not None
            yield from spans(change(load_audio(path), number), MAX_SPAN_S)

        return self._transcribe(
            (os.fspath(path), changed(path, number) if change else read_spans(path, MAX_SPAN_S))
            for number, path in enumerate(paths)
        )

    def transcribe_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Transcript]:
        """Transcribe several `waveform_N` at once, in batches of similar length; the order is kept."""
        pieces = (spans(waveform_N, MAX_SPAN_S) for waveform_N in waveforms)
        results = self._transcribe(zip(names, pieces, strict=True))
        return [one for one in results if isinstance(one, Transcript)]

    def _transcribe(
        self, sounds: Iterable[tuple[str, Iterator[tuple[int, Waveform]]]]
    ) -> Iterator[Transcript | AudioError]:
        """Transcribe what comes in spans, many at a time; yield in order, as soon as all of one is heard."""
        waiting: list[_Recording] = []
        batch: list[tuple[_Recording, int, Waveform]] = []
        for name, pieces in sounds:
            recording = _Recording(name)
            waiting.append(recording)
            try:
                for start, waveform_N in pieces:
                    recording.n_samples = start + len(waveform_N)
                    batch.append((recording, start, waveform_N))
                    if sum(len(one[2]) for one in batch) > GROUP_S * SAMPLE_RATE_HZ:
                        self._hear_spans(batch)
            except AudioError as error:
                recording.error = error
            if len(batch) >= GROUP:
                self._hear_spans(batch)
            unheard = batch[0][0] if batch else None
            while waiting and waiting[0] is not unheard:
                yield waiting.pop(0).result()
        self._hear_spans(batch)
        yield from (one.result() for one in waiting)

    def _hear_spans(self, batch: list[tuple[_Recording, int, Waveform]]) -> None:
        """Hear spans, add them to their recordings, and empty the list."""
        started = time.perf_counter()
        heard = self._hear([waveform_N for _, _, waveform_N in batch])
        elapsed_s = time.perf_counter() - started
        for (recording, start, waveform_N), one in zip(batch, heard, strict=True):
            recording.segments.append(one.segment(start / SAMPLE_RATE_HZ, len(waveform_N) / SAMPLE_RATE_HZ))
        for recording in {id(recording): recording for recording, _, _ in batch}.values():
            recording.elapsed_s += elapsed_s
        batch.clear()

    def _hear(self, pieces: Sequence[Waveform]) -> list[Heard]:
        """Return text, log probability and command of pieces that each fit the model."""
        nothing = Command("no_speech", 0.0, (), "", {"speech": 0.0}) if self.commands else None
        heard = [Heard(command=nothing)] * len(pieces)
        audible = [i for i, piece_N in enumerate(pieces) if np.abs(piece_N).max(initial=0.0) >= SILENCE]
        features = {i: extract(pieces[i], self.checkpoint.features) for i in audible}
        order = sorted((i for i in audible if len(features[i])), key=lambda i: len(features[i]))
        for batch in _batches(order, [len(features[i]) / FRAMES_PER_S for i in order]):
            features_BTC, frames_B = collate([features[i] for i in batch])
            found = self._decode(features_BTC.to(self.device), frames_B.to(self.device))
            heard_here = dict(zip(batch, found, strict=True))
            heard = [heard_here.get(i, one) for i, one in enumerate(heard)]
        return heard

    @torch.inference_mode()
    def _decode(self, features_BTC: Tensor, frames_B: Tensor) -> list[Heard]:
        model = self.model
        memory_BMD, mask_BM = model.encode(features_BTC, frames_B)
        tasks = [Task(self.decoding)]
        if self.commands is not None:
            config = replace(self.decoding, beam=max(COMMAND_BEAM, self.decoding.beam), n_best=N_BEST)
            tasks.append(Task(config, self.commands))
        free, *others = search_together(model, memory_BMD, mask_BM, tasks)
        texts = [self.checkpoint.tokenizer.decode(one[0].tokens) for one in free]
        found = [Heard(text, one[0]) for text, one in zip(texts, free, strict=True)]
        if not (others or self.word_times):
            return found
        log_probs_BMV = model.ctc_logits(memory_BMD).float().log_softmax(-1)
        if others:
            blanks = ((log_probs_BMV[..., BLANK] * mask_BM).sum(1) / mask_BM.sum(1)).tolist()
            found = [
                self._command(hypotheses, one[0], text, blank)
                for hypotheses, one, text, blank in zip(*others, free, texts, blanks, strict=True)
            ]
        if not self.word_times:
            return found
        lengths = mask_BM.sum(1).tolist()
        return [
            replace(one, words=self._words(one, log_probs_MV[:length]))
            for one, log_probs_MV, length in zip(found, log_probs_BMV, lengths, strict=True)
        ]

    def _words(self, heard: Heard, log_probs_MV: Tensor) -> tuple[Word, ...]:
        """Say when the words of a text were said."""
        tokens = heard.hypothesis.tokens if heard.text else ()
        aligned = align(log_probs_MV, tokens)
        if not aligned:
            return ()
        pieces, features = self.checkpoint.tokenizer.pieces(tokens), self.checkpoint.features
        words = []
        for group in word_groups(pieces):
            whole = Span(aligned[group[0]].first, aligned[group[-1]].end)
            start_s, end_s = seconds(whole, self.model.config, FRAMES_PER_S, features.edge_s)
            sure = confidence([heard.hypothesis.token_log_probabilities[i] for i in group])
            text = "".join(pieces[i] for i in group).replace("▁", "")
            words.append(Word(text, max(0.0, start_s), max(0.0, end_s), sure))
        return tuple(words)

    def _command(self, inside: Sequence[Hypothesis], free: Hypothesis, heard: str, blank: float) -> Heard:
        """Compare the grammar's hypotheses with the free one: accept the best, or say why not."""
        meanings = self._meanings(inside)
        if not meanings:
            status: Status = "not_a_command" if heard else "no_speech"
            numbers = {"speech": float(bool(heard)), "command": 0.0}
            return Heard(command=Command(status, 0.0, (), heard, numbers))
        best = meanings[0][0]
        text = self.checkpoint.tokenizer.decode(best.tokens)
        rival = meanings[1][0] if len(meanings) > 1 else None
        evidence = weigh(best, rival, free, (text, heard), blank)
        judgement = self.checkpoint.calibration.judge(evidence)
        probabilities = share(judgement, [one.log_probability for one, _ in meanings])
        alternatives = tuple(
            Alternative(self.checkpoint.tokenizer.decode(one.tokens), meaning.intent, meaning.slots, probability)
            for (one, meaning), probability in zip(meanings, probabilities, strict=True)
        )
        numbers = {"speech": judgement.speech, "command": judgement.command, "right": judgement.right}
        command = Command(judgement.status, judgement.confidence, alternatives, heard, {**numbers, **asdict(evidence)})
        return Heard(text if command.accepted else "", best, command)

    def _meanings(self, inside: Sequence[Hypothesis]) -> list[tuple[Hypothesis, Interpretation]]:
        """Return the best hypothesis of every meaning, best first."""
        meanings: list[tuple[Hypothesis, Interpretation]] = []
        for one in inside:
            assert self.commands is not None
            meaning = self.commands.grammar.interpret(self.checkpoint.tokenizer.decode(one.tokens))
            if meaning and all(meaning != other for _, other in meanings):
                meanings.append((one, meaning))
        return meanings


def _batches(order: Sequence[int], seconds: Sequence[float]) -> list[list[int]]:
    """Cut pieces, sorted by length, into batches of at most `BATCH_S` padded seconds."""
    batches: list[list[int]] = []
    for i, length_s in zip(order, seconds, strict=True):
        if not batches or length_s * (len(batches[-1]) + 1) > BATCH_S:
            batches.append([])
        batches[-1].append(i)
    return batches
