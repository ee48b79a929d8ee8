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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union, get_args

import numpy as np

from speechformer.alignment import (
    AROUND_S,
    DOUBTFUL,
    agreement,
    align,
    confidence,
    seconds,
    spoken,
    whole_span,
    word_bounds,
    word_groups,
)
from speechformer.audio import (
    SAMPLE_RATE_HZ,
    AudioSource,
    Waveform,
    at_speed,
    levels,
    load_audio,
    read_spans,
    sounding,
    spans,
)
from speechformer.beam_search import search
from speechformer.ctc import ctc_greedy
from speechformer.decoding import DecodingConfig, Floats, Hypothesis, Memory, Recogniser, cross_looks
from speechformer.errors import AudioError, ConfigError
from speechformer.features import FRAMES_PER_S, Array, collate
from speechformer.lexicon import TokenLexicon
from speechformer.model_folder import FILTERS, Settings, find_model, has_graphs, read_settings
from speechformer.tokenizer import PAD as BLANK
from speechformer.tokenizer import Tokenizer
from speechformer.transcript import Command, Segment, Transcript, Word

if TYPE_CHECKING:
    from speechformer.automaton import TokenAutomaton
    from speechformer.checkpoint import Checkpoint
    from speechformer.command_search import CommandSearch, Meanings
    from speechformer.grammar import Grammar

MAX_SPAN_S = 15.0  # training utterances of up to 16 s were heard
BATCH, BATCH_S = 32, 60.0  # pieces, and their seconds, decoded at once; more do not fit a processor's caches
GROUP, GROUP_S = 160, 480.0  # spans, and their seconds, of which all that was heard is kept until they are written
FREE = DecodingConfig(beam=8, ctc_weight=0.1, ctc_slack=0.6, unknown_word=2.5)  # the best on dev speech
BESIDE_COMMANDS = DecodingConfig(ctc_weight=0.5)  # that search only has to say how well anything else would fit
PAUSE_S = 1.5  # without a word, within what is said
MARGIN_S, LEAST_S = 0.8, 2.0  # left on around speech; what is left off is at least so long
OTHERS = 3  # places before it or after it in which somebody else is heard, and then:
MARGIN_BESIDE_OTHERS_S, LEAST_BESIDE_OTHERS_S = 0.4, 1.0
SHORT = 0.15  # of a command's length: what is shorter, a pause before or after it, is a cup or somebody else
SPEEDS = 0.9, 1.1  # at which a command is heard again, where another one is nearly as likely
SILENCE = 1e-4  # a peak below −80 dBFS is under the noise of any microphone: there is nothing to hear

Commands = Union["Grammar", str, os.PathLike[str]]
Engine = Literal["auto", "onnx", "torch"]
Precision = Literal["auto", "int8", "bf16", "fp32"]
Extract = Callable[[Waveform], Array]
NOTHING = Hypothesis((), 0.0, ())


@dataclass(frozen=True)
class Heard:
    """What was made of one piece of sound: the text, the hypothesis behind it, and the command."""

    text: str = ""
    hypothesis: Hypothesis = NOTHING
    command: Command | None = None
    words: tuple[Word, ...] = ()

    def later(self, s: float) -> Heard:
        """Return it with its words so many seconds later."""
        words = (replace(word, start_s=word.start_s + s, end_s=word.end_s + s) for word in self.words)
        return replace(self, words=tuple(words))

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
    """A network that is loaded, with or without a command set (a file, or a Grammar that was loaded).

    With `word_times` segments have words. At most `batch_size` pieces of sound are decoded at once. One can serve many
    threads: nothing is kept between calls but what was seen of the command set. `from_pretrained` makes one of a model
    folder.
    """

    def __init__(
        self,
        settings: Settings,
        recogniser: Recogniser,
        extract: Extract,
        decoding: DecodingConfig | None = None,
        commands: Commands | None = None,
        word_times: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.batch_size = batch_size or BATCH
        self.settings, self.recogniser, self.extract = settings, recogniser, extract
        self.decoding = decoding or (BESIDE_COMMANDS if commands else FREE)
        self.word_times = word_times
        self.commands = _compile(commands, settings.tokenizer) if commands else None
        self.spelling = TokenLexicon(settings.lexicon, settings.tokenizer) if settings.lexicon else None
        self.command_search = _search_of(self, self.commands) if self.commands else None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        decoding: DecodingConfig | None = None,
        device: str = "auto",
        commands: Commands | None = None,
        precision: Precision = "auto",
        word_times: bool = False,
        engine: Engine = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> Transcriber:
        """Load a shipped model by name, or a model folder; the default needs no network.

        On a CPU, ONNX Runtime computes a folder that was exported for it, in the precision of the export (int8 where
        none was chosen); else torch does, in bfloat16 where the hardware is fast at that, or float32. `threads` beyond
        the number of processors are left out: they would do nothing but take memory.
        Raises CheckpointError, naming the part of the folder that is missing or damaged.
        """
        folder = find_model(model)
        threads = min(threads, os.cpu_count() or 1) if threads else None
        if use_onnx(folder, engine, device, precision):
            from speechformer.frontend import Frontend
            from speechformer.onnx_recogniser import OnnxRecogniser

            settings = read_settings(folder)
            network = OnnxRecogniser(folder, settings.shape, threads)
            if precision not in ("auto", network.precision):
                raise ConfigError(f"{folder}: was exported in {network.precision}; export it anew for {precision}")
            extract = Frontend.load(folder / FILTERS, settings.features).extract
            return cls(settings, network, extract, decoding, commands, word_times, batch_size)
        from speechformer.checkpoint import load_checkpoint

        if threads:
            import torch

            torch.set_num_threads(threads)
        checkpoint = load_checkpoint(folder, chosen_device(device))
        return cls.from_checkpoint(checkpoint, decoding, commands, precision, word_times, batch_size)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        decoding: DecodingConfig | None = None,
        commands: Commands | None = None,
        precision: Precision = "auto",
        word_times: bool = False,
        batch_size: int | None = None,
    ) -> Transcriber:
        """Have torch compute a model that is loaded, where it is."""
        from speechformer.features import extract
        from speechformer.model import has_fast_bfloat16, in_bfloat16
        from speechformer.torch_recogniser import TorchRecogniser

        if precision == "int8":
            raise ConfigError("torch computes in fp32 or bf16; int8 is for models that were exported (--engine onnx)")
        model = checkpoint.model
        if precision == "bf16" or (precision == "auto" and has_fast_bfloat16(model.ctc_head.weight.device.type)):
            model = in_bfloat16(model)
        network, features = TorchRecogniser(model), partial(extract, config=checkpoint.features)
        return cls(checkpoint.settings, network, features, decoding, commands, word_times, batch_size)

    def with_commands(self, commands: Commands | None, decoding: DecodingConfig | None = None) -> Transcriber:
        """Return one that hears with the same network inside another command set, or none."""
        return Transcriber(
            self.settings, self.recogniser, self.extract, decoding, commands, self.word_times, self.batch_size
        )

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
        bounds = [sounding(waveform_N) for _, _, waveform_N in batch]
        cut = [waveform_N[start:end] for (_, _, waveform_N), (start, end) in zip(batch, bounds, strict=True)]
        heard = [one.later(start / SAMPLE_RATE_HZ) for one, (start, _) in zip(self._hear(cut), bounds, strict=True)]
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
        extracted = {i: self.extract(pieces[i]) for i in audible}
        features = {i: features_TC for i, features_TC in extracted.items() if len(features_TC)}
        memories: list[Memory] = []
        places = self._listen(features, memories)
        spoken_in = {i: self._spoken_in(pieces[i], memories[n].ctc_log_probs(row)) for i, (n, row) in places.items()}
        shorter = {i: self.extract(part_N) for i, (_, part_N) in spoken_in.items() if len(part_N) < len(pieces[i])}
        places |= self._listen(shorter, memories)
        features |= shorter
        seconds_of = {i: len(features_TC) / FRAMES_PER_S for i, features_TC in features.items()}
        written = [ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B) for memory in memories]
        n_tokens = {i: len(written[number][row]) for i, (number, row) in places.items()}
        # The decoder takes as many steps as the longest text of a batch: texts of about a length go together.
        order = sorted(features, key=lambda i: (n_tokens[i], seconds_of[i]))
        for batch in _batches(order, seconds_of, self.batch_size):
            chosen = sorted(batch, key=lambda i: places[i])
            parts = [
                (memories[number], np.array([row for _, row in rows]))
                for number, rows in groupby((places[i] for i in chosen), key=itemgetter(0))
            ]
            cut = [spoken_in[i][1] for i in chosen]
            for i, one in zip(chosen, self._decode(Memory.join(parts), cut), strict=True):
                heard[i] = one.later(spoken_in[i][0] / SAMPLE_RATE_HZ)
        return heard

    def _listen(self, features: Mapping[int, Array], memories: list[Memory]) -> dict[int, tuple[int, int]]:
        """Encode pieces in batches of similar length, added to `memories`: which one and row each piece is in."""
        places = dict[int, tuple[int, int]]()
        seconds_of = {i: len(features_TC) / FRAMES_PER_S for i, features_TC in features.items()}
        for batch in _batches(sorted(features, key=lambda i: seconds_of[i]), seconds_of, self.batch_size):
            places |= {i: (len(memories), row) for row, i in enumerate(batch)}
            memories.append(self.recogniser.listen(*collate([features[i] for i in batch])))
        return places

    def _spoken_in(self, piece_N: Waveform, log_probs_MV: Floats) -> tuple[int, Waveform]:
        """Return where a piece begins to be worth hearing again, and that part of it: all, where that is most of it.

        In noise only the network can tell where somebody speaks; and seconds of noise around take from speech what
        the features are normalised by. Who says a command is nearer to the microphone than a radio is.
        """
        hop_N = self.settings.shape.stride_frames * SAMPLE_RATE_HZ // FRAMES_PER_S
        gap = round(PAUSE_S * SAMPLE_RATE_HZ / hop_N)
        if self.commands:
            heard = spoken(log_probs_MV, gap, SHORT, levels(piece_N, hop_N, len(log_probs_MV)))
        else:
            heard = spoken(log_probs_MV, gap)
        before_s, after_s = (MARGIN_BESIDE_OTHERS_S if n >= OTHERS else MARGIN_S for n in (heard.before, heard.after))
        begin = max(0, heard.first * hop_N - round(before_s * SAMPLE_RATE_HZ))
        part_N = piece_N[begin : heard.end * hop_N + round(after_s * SAMPLE_RATE_HZ)]
        least_s = LEAST_BESIDE_OTHERS_S if max(heard.before, heard.after) >= OTHERS else LEAST_S
        if heard.end == 0 or len(piece_N) - len(part_N) < least_s * SAMPLE_RATE_HZ:
            return 0, piece_N
        return begin, part_N

    def _decode(self, memory: Memory, pieces: Sequence[Waveform]) -> list[Heard]:
        chosen = self.command_search
        heard_BMV = [memory.ctc_log_probs(row) for row in range(len(memory.lengths_B))]
        if chosen is None:
            free = [one[0] for one in search(self.recogniser, memory, self.decoding, spelling=self.spelling)]
            found = [Heard(self.settings.tokenizer.decode(one.tokens), one) for one in free]
        else:
            inside = chosen.inside(memory)
            free = chosen.beside(memory, inside)
            meanings_B = self._weighed(chosen, inside, free, pieces)
            found = [
                _answer(meanings, chosen.command(meanings, one, float(log_probs_MV[:, BLANK].mean()), sound_D))
                for meanings, one, log_probs_MV, sound_D in zip(
                    meanings_B, free, heard_BMV, memory.sounds(), strict=True
                )
            ]
        if not self.word_times:
            return found
        texts_B = [one.hypothesis.tokens if one.text else () for one in found]
        looked = cross_looks(self.recogniser, memory, texts_B)
        return [
            replace(one, words=self._words(one, log_probs_MV, looks_LHM))
            for one, log_probs_MV, looks_LHM in zip(found, heard_BMV, looked, strict=True)
        ]

    def _weighed(
        self,
        chosen: CommandSearch,
        commands: Sequence[Sequence[Hypothesis]],
        free: Sequence[Hypothesis],
        pieces: Sequence[Waveform],
    ) -> list[Meanings]:
        """Return the meanings of each piece's hypotheses, best first.

        Where two are nearly as likely, the piece is heard at other speeds too, and the hypotheses' mean counts.
        """
        meanings_B = [chosen.meanings(hypotheses) for hypotheses in commands]
        pairs = zip(meanings_B, free, strict=True)
        close = [number for number, (meanings, heard) in enumerate(pairs) if chosen.is_close(meanings, heard)]
        views = [(number, speed) for number in close for speed in SPEEDS]
        features = {i: self.extract(at_speed(pieces[number], speed)) for i, (number, speed) in enumerate(views)}
        memories: list[Memory] = []
        places = self._listen(features, memories)
        hearings = {number: [{one.tokens: one for one in commands[number]}] for number in close}
        for place, memory in enumerate(memories):
            here = [views[i][0] for i, (where, _) in places.items() if where == place]
            again = chosen.heard_again(memory, [commands[number] for number in here])
            for number, heard in zip(here, again, strict=True):
                hearings[number].append(heard)
        for number, hearings_of in hearings.items():
            meanings_B[number] = chosen.meanings(chosen.mean(hearings_of)) or meanings_B[number]
        return meanings_B

    def _words(self, heard: Heard, log_probs_MV: Floats, looks_LHM: Floats) -> tuple[Word, ...]:
        """Say when the words of a text were said."""
        tokens = heard.hypothesis.tokens if heard.text else ()
        aligned = align(log_probs_MV, tokens)
        if not aligned:
            return ()
        pieces, features = self.settings.tokenizer.pieces(tokens), self.settings.features
        around = round(AROUND_S * FRAMES_PER_S / self.settings.shape.stride_frames)
        groups, words = word_groups(pieces), []
        spans = [whole_span(aligned, group) for group in groups]
        for group, span, bounds in zip(groups, spans, word_bounds(spans), strict=True):
            start_s, end_s = (seconds(one, self.settings.shape, FRAMES_PER_S, features.edge_s) for one in bounds)
            sure = confidence([heard.hypothesis.token_log_probabilities[i] for i in group])
            text = "".join(pieces[i] for i in group).replace("▁", "")
            agreed = agreement(looks_LHM[group], span, around)
            words.append(Word(text, max(0.0, start_s), max(0.0, end_s), sure, agreed, agreed < DOUBTFUL))
        return tuple(words)


def _answer(meanings: Meanings, command: Command) -> Heard:
    """Return a command with the hypothesis behind it, and its text where it is accepted."""
    if not meanings:
        return Heard(command=command)
    return Heard(command.alternatives[0].text if command.accepted else "", meanings[0][0], command)


def _batches(order: Sequence[int], seconds_of: Mapping[int, float], size: int) -> list[list[int]]:
    """Cut pieces, in that order, into batches of at most `size`, of at most `BATCH_S` padded seconds."""
    batches: list[list[int]] = []
    longest_s = 0.0
    for i in order:
        longest_s = max(longest_s, seconds_of[i])
        if not batches or len(batches[-1]) == size or longest_s * (len(batches[-1]) + 1) > BATCH_S:
            batches.append([])
            longest_s = seconds_of[i]
        batches[-1].append(i)
    return batches


def _search_of(transcriber: Transcriber, commands: TokenAutomaton) -> CommandSearch:
    from speechformer.command_search import CommandSearch

    return CommandSearch(
        transcriber.recogniser, transcriber.settings, commands, transcriber.decoding, transcriber.spelling
    )


def _compile(commands: Commands, tokenizer: Tokenizer) -> TokenAutomaton:
    from speechformer.automaton import TokenAutomaton
    from speechformer.grammar import Grammar

    grammar = Grammar.load(commands) if isinstance(commands, str | os.PathLike) else commands
    return TokenAutomaton(grammar, tokenizer)


def use_onnx(folder: Path, engine: Engine, device: str, precision: Precision) -> bool:
    """Say whether ONNX Runtime is to compute a model. Raises ConfigError for what does not go together."""
    for value, choices in ((engine, get_args(Engine)), (precision, get_args(Precision))):
        if value not in choices:
            raise ConfigError(f"{value!r} is none of {', '.join(choices)}")
    if engine == "onnx" and device not in ("auto", "cpu"):
        raise ConfigError(f"ONNX Runtime computes on the CPU here, not on {device}; give --engine torch")
    if engine != "auto":
        return engine == "onnx"
    return device in ("auto", "cpu") and precision in ("auto", "int8") and has_graphs(folder)


def chosen_device(device: str) -> str:
    """Return what torch calls the device; "auto" is a GPU where there is one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
