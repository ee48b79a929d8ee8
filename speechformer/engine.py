"""One loaded model for many clients: recordings wait in a bounded queue and are heard together, in batches.

What cannot be answered is a Refusal: an HTTP status, from which the code of a Wyoming error follows, and one sentence.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from starlette.exceptions import HTTPException
from wyoming.audio import AudioFormat

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, convert, read_spans
from speechformer.errors import AudioError
from speechformer.transcribe import MAX_SPAN_S
from speechformer.transcript import Transcript

Refusal = HTTPException
LANGUAGE, LANGUAGES = "en", ("", "en", "english")
ALIAS = "whisper-1"  # sent by clients in which no other name can be set
CODES = {
    400: "bad_request", 401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 408: "timeout",
    413: "too_large", 429: "busy", 499: "gone", 500: "failed", 503: "stopping",
}  # fmt: skip

Hear = Callable[[Sequence[Waveform], Sequence[str]], Sequence[Transcript]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a request, and all of them together, may take."""

    upload_bytes: int = 25 * 2**20
    upload_s: float = 60.0  # from the first byte of an HTTP request to its last
    duration_s: float = 300.0
    n_waiting: int = 64
    waiting_s: float = 1_800.0
    n_batch: int = 32
    batch_s: float = 120.0
    n_connections: int = 128  # of each protocol
    idle_s: float = 60.0  # without a word from a Wyoming client
    stop_s: float = 10.0  # to fetch the answers once all are there


@dataclass(frozen=True)
class Job:
    """A recording that waits for its transcript."""

    waveform_N: Waveform
    result: Future[Transcript] = field(default_factory=Future)


class Batcher:
    """A bounded queue before the model: what waits is heard together, in batches, first come, first heard.

    One thread calls `hear`, which is `Transcriber.transcribe_waveforms`. A recording on which it fails spoils no other.
    """

    def __init__(self, hear: Hear, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.n_working = self.n_answered = self.n_batches = 0
        self.closing = False
        self._hear = hear
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="speechformer-model", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """How many recordings wait for their batch."""
        return len(self._jobs)

    def submit(self, waveform_N: Waveform) -> Future[Transcript]:
        """Queue a recording; cancel the result to take it back. Raises Refusal when full (429) or closing (503)."""
        with self._changed:
            self.check_open()
            self._jobs = deque(job for job in self._jobs if not job.result.cancelled())
            waiting_s = sum(len(job.waveform_N) for job in self._jobs) / SAMPLE_RATE_HZ
            if len(self._jobs) >= self.limits.n_waiting or waiting_s > self.limits.waiting_s:
                raise Refusal(429, "the server is busy; ask again in a second", {"Retry-After": "1"})
            job = Job(waveform_N)
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def check_open(self) -> None:
        """Raise Refusal (503) once closing."""
        if self.closing:
            raise Refusal(503, "the server is stopping; ask again when it is back")

    def close(self) -> None:
        """Refuse what is new, hear what was accepted, and return."""
        with self._changed:
            self.closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            self.n_batches += 1
            self._answer(batch)

    def _take(self) -> list[Job]:
        """Wait for recordings and return the first of them, as many as fit a batch; none when all is done."""
        batch: list[Job] = []
        rest = self.limits.batch_s * SAMPLE_RATE_HZ
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._jobs or self.closing)
                if not self._jobs:
                    break
                while self._jobs and len(batch) < self.limits.n_batch:
                    if batch and len(self._jobs[0].waveform_N) > rest:
                        break
                    job = self._jobs.popleft()
                    if job.result.set_running_or_notify_cancel():
                        batch.append(job)
                        rest -= len(job.waveform_N)
            self.n_working = len(batch)
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        try:
            transcripts = self._hear([job.waveform_N for job in batch], ["request"] * len(batch))
            answered = list(zip(batch, transcripts, strict=True))
        except Exception:
            if len(batch) > 1:
                for job in batch:
                    self._answer([job])
                return
            _log.exception("a recording of %d samples could not be transcribed", len(batch[0].waveform_N))
            self._count()
            batch[0].result.set_exception(Refusal(500, "the model failed on this recording; the server's log says why"))
            return
        for job, transcript in answered:
            self._count()
            job.result.set_result(transcript)

    def _count(self) -> None:
        self.n_working -= 1
        self.n_answered += 1


class Engine:
    """What both protocols share: the readers, the batcher and the limits."""

    def __init__(self, hear: Hear, name: str, limits: Limits | None = None) -> None:
        self.name, self.limits = name, limits or Limits()
        self.batcher = Batcher(hear, self.limits)
        self.started = time.monotonic()
        self._readers = ThreadPoolExecutor(2, "speechformer-reader")  # large sounds are unpacked two at a time

    async def transcribe(self, read: Callable[[], Waveform], gone: Callable[[], Awaitable[bool]]) -> Transcript:
        """Read a recording and hear it, unless its client is gone. Raises Refusal."""
        self.batcher.check_open()
        try:
            waveform_N = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except AudioError as error:
            raise Refusal(400, str(error)) from error
        except Refusal:
            raise
        except Exception as error:
            _log.exception("a recording could not be read")
            raise Refusal(500, "the server failed on this recording; its log says why") from error
        job = self.batcher.submit(waveform_N)
        result = asyncio.wrap_future(job)
        try:
            while not (await asyncio.wait({result}, timeout=1.0))[0]:
                if await gone():
                    raise Refusal(499, "the client is gone")
            return result.result()
        finally:
            job.cancel()
            result.cancel()  # else an error that comes too late would be logged as never seen

    def check(self, model: str | None, language: str | None) -> None:
        """Refuse a model or a language that is not the one served."""
        if model not in (None, "", self.name, ALIAS):
            raise Refusal(404, f"there is no model {model!r:.80} here; leave it out, or give {self.name!r}")
        if str(language or "").lower().split("-")[0] not in LANGUAGES:
            raise Refusal(400, f"the language {language!r:.80} is not known; the model hears {LANGUAGE!r}")

    def health(self) -> dict[str, Any]:
        """Return how the engine is."""
        return {
            "status": "stopping" if self.batcher.closing else "ok", "model": self.name,
            "waiting": self.batcher.n_waiting, "working": self.batcher.n_working,
            "answered": self.batcher.n_answered, "batches": self.batcher.n_batches,
            "uptime_s": round(time.monotonic() - self.started, 1),
        }  # fmt: skip

    def close(self) -> None:
        """Hear what was accepted, and stop."""
        self.batcher.close()
        self._readers.shutdown()


def read_upload(file: BinaryIO, limits: Limits) -> Waveform:
    """Read a sound file that may be anything, and no further than it may be long."""
    pieces, n_samples = [], 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        try:
            with closing(read_spans(path, MAX_SPAN_S)) as spans:  # type: ignore[type-var]  # it is a generator
                for _, span_N in spans:
                    n_samples += len(span_N)
                    _check_duration(n_samples / SAMPLE_RATE_HZ, limits)
                    pieces.append(span_N)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), "upload")) from error
    return np.concatenate(pieces)


def read_pcm(sound: bytes, form: AudioFormat, limits: Limits) -> Waveform:
    """Convert little-endian PCM of any rate, width and channel count; 8 bits are unsigned, as in WAV files."""
    _check_duration(len(sound) / (form.rate * form.width * form.channels), limits)
    whole = len(sound) - len(sound) % (form.width * form.channels)
    bytes_NW = np.frombuffer(sound[:whole], np.uint8).reshape(-1, form.width)
    wide_NW = bytes_NW if form.width == 1 else np.pad(bytes_NW, ((0, 0), (4 - form.width, 0))).view("<i4")
    return convert(wide_NW.reshape(-1, form.channels), form.rate, "audio-start")


def _check_duration(duration_s: float, limits: Limits) -> None:
    if duration_s > limits.duration_s:
        raise Refusal(413, f"the recording is longer than {limits.duration_s:g} s; send it in parts")


def too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the recording is larger than {limits.upload_bytes / 2**20:g} MB; send it in parts")
