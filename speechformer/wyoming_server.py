"""The engine over the Wyoming protocol, which Home Assistant speaks: audio in chunks → a transcript."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from wyoming.asr import Transcribe
from wyoming.asr import Transcript as WyomingTranscript
from wyoming.audio import AudioChunk, AudioFormat, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler

from speechformer import __version__
from speechformer.audio import MAX_CHANNELS, RATE_RANGE_HZ
from speechformer.engine import CODES, LANGUAGE, Engine, Limits, Refusal, read_pcm, too_large

EVENTS = (Describe, Ping, Transcribe, AudioStart, AudioChunk, AudioStop)
_log = logging.getLogger(__name__)


class Reader(asyncio.StreamReader):
    """A stream that waits only so long for a client, and takes only so much of it at once."""

    limits = Limits()

    async def readline(self) -> bytes:
        async with asyncio.timeout(self.limits.idle_s):
            return await super().readline()

    async def readexactly(self, n: int) -> bytes:
        if n > self.limits.upload_bytes:
            raise ValueError(f"an event of {n} bytes")
        async with asyncio.timeout(self.limits.idle_s):
            return await super().readexactly(n)


class Talk(AsyncEventHandler):
    """One Wyoming connection: as many utterances as the client likes, one after another; an error ends it."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.engine, self.answering = engine, False
        self.form: AudioFormat | None = None
        self.sound, self.n_bytes = bytearray(), 0

    async def run(self) -> None:
        """Talk until the client leaves; whatever it sends, only its own connection ends."""
        try:
            await super().run()
        except Exception as error:
            _log.info("a Wyoming connection was cut off: %r", error)

    async def handle_event(self, event: Event) -> bool:
        """Answer an event; return whether to go on."""
        try:
            await self._handle(event)
        except Refusal as refusal:
            await self.write_event(Error(refusal.detail, CODES[refusal.status_code]).event())
            return False
        return not (self.engine.batcher.closing and AudioStop.is_type(event.type))

    async def _handle(self, event: Event) -> None:
        try:
            message = next((kind.from_event(event) for kind in EVENTS if kind.is_type(event.type)), None)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise Refusal(400, f"the event {event.type!r:.80} lacks a field or has a wrong one") from error
        match message:
            case Describe():
                await self.write_event(_info(self.engine.name).event())
            case Ping():
                await self.write_event(Pong(message.text).event())
            case Transcribe():
                self.engine.check(message.name, message.language)
            case AudioStart():
                self._begin(message)
            case AudioChunk():
                if self.form is None:
                    self._begin(message)
                self.n_bytes += len(message.audio)
                if self.n_bytes <= self.engine.limits.upload_bytes:
                    self.sound += message.audio
            case AudioStop():
                self.answering = True
                await self._transcribe()
                self.answering = False

    def _begin(self, form: AudioFormat) -> None:
        numbers = (form.rate, form.width, form.channels)
        limits = (RATE_RANGE_HZ[1], 4, MAX_CHANNELS)
        if not all(isinstance(one, int) and 0 < one <= most for one, most in zip(numbers, limits, strict=True)):
            raise Refusal(400, f"audio of the rate, width and channels {numbers!r:.80} is not PCM; send 16000, 2, 1")
        self.form, self.n_bytes = form, 0
        self.sound.clear()

    async def _transcribe(self) -> None:
        if self.form is None:
            raise Refusal(400, "audio-stop came before audio-start")
        if self.n_bytes > self.engine.limits.upload_bytes:
            raise too_large(self.engine.limits)
        read = partial(read_pcm, bytes(self.sound), self.form, self.engine.limits)
        self.form = None
        self.sound.clear()
        transcript = await self.engine.transcribe(read, self._gone)
        await self.write_event(WyomingTranscript(transcript.text, language=LANGUAGE).event())

    async def _gone(self) -> bool:
        return self.writer.is_closing()


def _info(name: str) -> Info:
    by = Attribution("speechformer", "")
    about = "Spoken commands to text"
    model = AsrModel(name, by, True, about, __version__, [LANGUAGE])
    return Info(asr=[AsrProgram("speechformer", by, True, about, __version__, [model])])
