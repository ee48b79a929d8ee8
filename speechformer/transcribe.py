"""The public Python API: a model folder and audio in, transcripts out.

transcriber = Transcriber.from_pretrained()
transcript = transcriber.transcribe("command.wav")
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from speechformer.audio import SAMPLE_RATE_HZ, AudioSource, Waveform, load_audio, segment
from speechformer.checkpoint import Checkpoint, find_model, load_checkpoint
from speechformer.decoding import DecodingConfig, Hypothesis, decode
from speechformer.features import FRAMES_PER_S, collate, extract
from speechformer.transcript import Segment, Transcript

MAX_SPAN_S = 15.0  # training utterances of up to 16 s were heard
BATCH_S = 60.0
SILENCE = 1e-4  # a peak below −80 dBFS is under the noise of any microphone: there is nothing to hear


class Transcriber:
    """A loaded model. It keeps no state between calls, so one can serve many threads."""

    def __init__(self, checkpoint: Checkpoint, decoding: DecodingConfig | None = None, device: str = "cpu") -> None:
        self.checkpoint, self.device = checkpoint, device
        self.decoding = decoding or DecodingConfig()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        decoding: DecodingConfig | None = None,
        device: str = "cpu",
    ) -> Transcriber:
        """Load a shipped model by name, or a model folder; the default needs no network.

        Raises CheckpointError, naming the part of the folder that is missing or damaged.
        """
        return cls(load_checkpoint(find_model(model), device), decoding, device)

    def transcribe(self, source: AudioSource) -> Transcript:
        """Transcribe a path, bytes, an open binary file or a (rate, array) pair.

        Raises AudioError for what is not audio. Silence gives an empty text.
        """
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__
        return self.transcribe_waveforms([load_audio(source)], [name])[0]

    def transcribe_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Transcript]:
        """Transcribe several `waveform_N` at once, in batches of similar length; the order is kept."""
        started = time.perf_counter()
        places = [
            (i, start, end) for i, waveform_N in enumerate(waveforms) for start, end in segment(waveform_N, MAX_SPAN_S)
        ]
        texts = self._hear([waveforms[i][start:end] for i, start, end in places])
        segments: list[list[Segment]] = [[] for _ in waveforms]
        for (i, start, end), (text, log_probability) in zip(places, texts, strict=True):
            times = start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ
            segments[i].append(Segment(text, *times, log_probability))
        elapsed_s = time.perf_counter() - started
        return [
            Transcript(
                name=name,
                text=" ".join(one.text for one in parts if one.text),
                duration_s=len(waveform_N) / SAMPLE_RATE_HZ,
                elapsed_s=elapsed_s,
                segments=tuple(parts),
            )
            for name, waveform_N, parts in zip(names, waveforms, segments, strict=True)
        ]

    def _hear(self, pieces: Sequence[Waveform]) -> list[tuple[str, float]]:
        """Return text and log probability of pieces that each fit the model."""
        heard: list[tuple[str, float]] = [("", 0.0)] * len(pieces)
        audible = [i for i, piece_N in enumerate(pieces) if np.abs(piece_N).max(initial=0.0) >= SILENCE]
        features = {i: extract(pieces[i], self.checkpoint.features) for i in audible}
        order = sorted((i for i in audible if len(features[i])), key=lambda i: len(features[i]))
        for batch in _batches(order, [len(features[i]) / FRAMES_PER_S for i in order]):
            features_BTC, frames_B = collate([features[i] for i in batch])
            found = decode(self.checkpoint.model, features_BTC.to(self.device), frames_B.to(self.device), self.decoding)
            for i, hypotheses in zip(batch, found, strict=True):
                heard[i] = self._read(hypotheses[0])
        return heard

    def _read(self, hypothesis: Hypothesis) -> tuple[str, float]:
        return self.checkpoint.tokenizer.decode(hypothesis.tokens), hypothesis.log_probability


def _batches(order: Sequence[int], seconds: Sequence[float]) -> list[list[int]]:
    """Cut pieces, sorted by length, into batches of at most `BATCH_S` padded seconds."""
    batches: list[list[int]] = []
    for i, length_s in zip(order, seconds, strict=True):
        if not batches or length_s * (len(batches[-1]) + 1) > BATCH_S:
            batches.append([])
        batches[-1].append(i)
    return batches
