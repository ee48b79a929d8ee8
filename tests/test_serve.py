"""The server: the queue before the model, and what clients of both protocols get for good requests and bad."""

# ruff: noqa: E402  where the extra is missing, the file is skipped before it imports what needs it

from __future__ import annotations

import asyncio
import io
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

for needed in ("fastapi", "uvicorn", "python_multipart", "httpx", "wyoming"):
    pytest.importorskip(needed, reason="the server is an extra: speechformer[serve]")

import httpx

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # wyoming takes audioop where Python has it still
    from wyoming.asr import Transcribe
    from wyoming.asr import Transcript as WyomingTranscript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.error import Error
    from wyoming.event import Event
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.engine import Batcher, Engine, Limits, Refusal, read_pcm
from speechformer.errors import SpeechformerError
from speechformer.http_server import make_app
from speechformer.serve import Service, check_exposure
from speechformer.transcribe import Transcriber
from speechformer.transcript import Alternative, Command, Segment, Transcript, Word

MUSIC = Path(__file__).parents[1] / "assets/play-some-music.wav"
URL = "/v1/audio/transcriptions"
PATIENCE_S = 20


class Fake:
    """Hears how many samples a recording has; holds each batch while `gate` is shut, fails on `bad` lengths."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad = bad
        self.batches: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def transcribe_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Transcript]:
        lengths = [len(one) for one in waveforms]
        self.batches.append(lengths)
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        if set(lengths) & set(self.bad):
            raise RuntimeError("secret detail")
        return [heard(str(length), length / SAMPLE_RATE_HZ, name) for length, name in zip(lengths, names, strict=True)]


def heard(text: str, duration_s: float, name: str = "") -> Transcript:
    words = (Word(text, 0.0, duration_s, 0.9),)
    return Transcript(name, text, duration_s, 0.0, (Segment(text, 0.0, duration_s, -1.0, None, words),))


def silence(n_samples: int) -> Waveform:
    return np.zeros(n_samples, np.float32)


def wav(n_samples: int = 800, rate_hz: int = SAMPLE_RATE_HZ, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(n_samples), rate_hz, format=form)
    return file.getvalue()


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def batcher(fake: Fake) -> Iterator[Batcher]:
    """A queue of three before a fake model, in batches of two."""
    with closing(Batcher(fake.transcribe_waveforms, Limits(n_waiting=3, n_batch=2))) as queue:
        yield queue
        fake.gate.set()


def hold(fake: Fake, queue: Batcher) -> Future[Transcript]:
    """Keep the model at work on a recording of one sample."""
    fake.gate.clear()
    first = queue.submit(silence(1))
    assert fake.entered.acquire(timeout=PATIENCE_S)
    return first


def test_what_waits_is_heard_together_in_order(fake: Fake, batcher: Batcher) -> None:
    first = hold(fake, batcher)
    others = [batcher.submit(silence(length)) for length in (4, 3, 2)]
    assert (batcher.n_working, batcher.n_waiting) == (1, 3)
    fake.gate.set()
    assert [one.result(PATIENCE_S).text for one in (first, *others)] == ["1", "4", "3", "2"]
    assert fake.batches == [[1], [4, 3], [2]]


def test_a_batch_is_no_longer_than_its_seconds(fake: Fake) -> None:
    limits = Limits(batch_s=1.0)
    with closing(Batcher(fake.transcribe_waveforms, limits)) as queue:
        first = hold(fake, queue)
        lengths = [2 * SAMPLE_RATE_HZ, 3, SAMPLE_RATE_HZ - 3, 4]
        others = [queue.submit(silence(length)) for length in lengths]
        fake.gate.set()
        assert [int(one.result(PATIENCE_S).text) for one in (first, *others)] == [1, *lengths]
    assert fake.batches == [[1], lengths[:1], lengths[1:3], lengths[3:]]


def test_a_full_queue_is_busy_until_there_is_room(fake: Fake, batcher: Batcher) -> None:
    hold(fake, batcher)
    waiting = [batcher.submit(silence(2)) for _ in range(3)]
    with pytest.raises(Refusal) as refusal:
        batcher.submit(silence(5))
    assert refusal.value.status_code == 429
    assert waiting[0].cancel(), "what was taken back makes room"
    last = batcher.submit(silence(6))
    fake.gate.set()
    assert last.result(PATIENCE_S).text == "6"
    assert waiting[1].result(PATIENCE_S).text == "2"


def test_a_queue_holds_only_so_many_seconds(fake: Fake) -> None:
    with closing(Batcher(fake.transcribe_waveforms, Limits(waiting_s=1.0))) as queue:
        hold(fake, queue)
        queue.submit(silence(SAMPLE_RATE_HZ + 1))
        with pytest.raises(Refusal, match="busy"):
            queue.submit(silence(1))
        fake.gate.set()


def test_a_cancelled_request_is_not_heard(fake: Fake, batcher: Batcher) -> None:
    hold(fake, batcher)
    cancelled, kept = batcher.submit(silence(2)), batcher.submit(silence(3))
    assert cancelled.cancel()
    fake.gate.set()
    assert kept.result(PATIENCE_S).text == "3"
    assert fake.batches == [[1], [3]]


def test_an_error_of_one_spoils_no_other(fake: Fake, batcher: Batcher) -> None:
    fake.bad = (2,)
    hold(fake, batcher)
    bad, good = batcher.submit(silence(2)), batcher.submit(silence(3))
    fake.gate.set()
    assert good.result(PATIENCE_S).text == "3"
    with pytest.raises(Refusal) as refusal:
        bad.result(PATIENCE_S)
    assert refusal.value.status_code == 500
    assert "secret" not in refusal.value.detail
    assert batcher.submit(silence(4)).result(PATIENCE_S).text == "4"


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(fake: Fake, batcher: Batcher) -> None:
    accepted = [hold(fake, batcher), batcher.submit(silence(2))]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    while not batcher.closing:
        pass
    with pytest.raises(Refusal) as refusal:
        batcher.submit(silence(3))
    assert refusal.value.status_code == 503
    fake.gate.set()
    closer.join(PATIENCE_S)
    assert [one.result(0).text for one in accepted] == ["1", "2"]


def test_many_threads_all_get_their_own_answer(fake: Fake) -> None:
    answers: dict[int, str] = {}

    def ask(length: int) -> None:
        answers[length] = queue.submit(silence(length)).result(PATIENCE_S).text

    with closing(Batcher(fake.transcribe_waveforms, Limits(n_waiting=100))) as queue:
        threads = [threading.Thread(target=ask, args=(length,)) for length in range(1, 101)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {length: str(length) for length in range(1, 101)}
    assert queue.n_answered == 100


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_of_every_width_is_the_same_sound(width: int, channels: int) -> None:
    sound_N = 0.5 * np.sin(np.arange(1600) / 10)
    middle = 128 if width == 1 else 0
    whole_N = np.round(sound_N * 2 ** (8 * width - 1)).astype(np.int64) + middle
    data = b"".join(int(one).to_bytes(width, "little", signed=width > 1) * channels for one in whole_N)
    waveform_N = read_pcm(data + b"\x01" * (width * channels - 1), AudioStart(16_000, width, channels), Limits())
    np.testing.assert_allclose(waveform_N, sound_N, atol=2.0 ** (1 - 8 * width) + 1e-6)


Ask = Callable[..., Coroutine[Any, Any, httpx.Response]]


def over_http(
    scenario: Callable[[Ask, Engine], Coroutine[Any, Any, Any]], fake: Fake, limits: Limits, **keywords: Any
) -> Any:
    """Run a scenario against the app, with a function that sends a file and fields."""

    async def run() -> Any:
        with closing(Engine(fake.transcribe_waveforms, "tiny", limits)) as engine:
            transport = httpx.ASGITransport(make_app(engine, **keywords))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

                async def ask(file: bytes | None = None, headers: Any = None, **fields: str) -> httpx.Response:
                    files = {"file": ("x.wav", file)} if file is not None else None
                    return await client.post(URL, data=fields, files=files, headers=headers)

                ask.client = client  # type: ignore[attr-defined]
                return await asyncio.wait_for(scenario(ask, engine), PATIENCE_S)

    return asyncio.run(run())


def post(fake: Fake, file: bytes | None, limits: Limits | None = None, **fields: str) -> httpx.Response:
    async def scenario(ask: Ask, engine: Engine) -> httpx.Response:
        return await ask(file, **fields)

    return over_http(scenario, fake, limits or Limits())


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("json", '{"text":"800"}'),
        ("text", "800\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:00,050\n800\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:00.050\n800\n"),
    ],
)
def test_a_transcript_comes_in_the_form_asked_for(fake: Fake, form: str, expected: str) -> None:
    response = post(fake, wav(800), model="tiny", language="en", response_format=form)
    assert (response.status_code, response.text) == (200, expected)


def test_verbose_json_has_segments_and_words(fake: Fake) -> None:
    answer = post(fake, wav(800), response_format="verbose_json", model="whisper-1").json()
    times = {"start": 0.0, "end": 0.05}
    assert answer == {
        "task": "transcribe", "language": "english", "duration": 0.05, "text": "800",
        "segments": [{"id": 0, "text": "800", **times}], "words": [{"word": "800", **times}],
    }  # fmt: skip


def test_verbose_json_has_the_command(fake: Fake) -> None:
    command = Command("accepted", 0.9, (Alternative("go", "Move", {"what": "go"}, 0.9),), "go", {})
    transcript = Transcript("", "go", 1.0, 0.0, (Segment("go", 0.0, 1.0, -1.0, command),))
    fake.transcribe_waveforms = lambda waveforms, names: [transcript]  # type: ignore[method-assign]
    answer = post(fake, wav(), response_format="verbose_json").json()
    assert {key: answer[key] for key in ("status", "confidence", "intent", "slots")} == {
        "status": "accepted", "confidence": 0.9, "intent": "Move", "slots": {"what": "go"},
    }  # fmt: skip


def test_files_of_any_rate_and_format_are_read(fake: Fake) -> None:
    for file in (wav(8_000, 8_000), wav(48_000, 48_000), wav(44_100, 44_100, "FLAC"), wav(24_000, 24_000, "OGG")):
        assert post(fake, file).json() == {"text": "16000"}


@pytest.mark.parametrize(
    ("file", "fields", "status", "problem"),
    [
        (b"", {}, 400, "empty"),
        (b"no sound" * 99, {}, 400, "not audio"),
        (wav()[:900], {}, 400, "cut short"),
        (wav(0), {}, 400, "no samples"),
        (None, {"model": "tiny"}, 400, "file: "),
        (wav(), {"response_format": "docx"}, 400, "response_format: "),
        (wav(), {"model": "gpt"}, 404, "no model 'gpt'"),
        (wav(), {"language": "fr"}, 400, "language 'fr'"),
        (wav(33_000, 16_000), {}, 413, "longer than 2 s"),
        (wav(120 * SAMPLE_RATE_HZ, form="FLAC"), {}, 413, "longer than 2 s"),
        (b"\0" * 2**20, {}, 413, "larger than 0.5 MB"),
    ],
)
def test_a_bad_request_is_one_sentence(
    fake: Fake, file: bytes | None, fields: dict[str, str], status: int, problem: str
) -> None:
    response = post(fake, file, Limits(upload_bytes=2**19, duration_s=2.0), **fields)
    error = response.json()["error"]
    assert response.status_code == status
    assert problem in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not any(word in response.text for word in ("Traceback", "tmp", "\\n"))
    assert not fake.batches


def test_what_the_model_fails_on_tells_nothing_of_the_inside() -> None:
    response = post(Fake(bad=[800]), wav(800))
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in response.text


def test_an_upload_that_does_not_say_its_size_is_stopped(fake: Fake) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        while sent < 100:
            sent += 1
            yield b"\0" * 2**16

    async def scenario(ask: Any, engine: Engine) -> httpx.Response:
        return await ask.client.post(URL, content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})

    response = over_http(scenario, fake, Limits(upload_bytes=2**18))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert sent < 10


def test_an_upload_that_comes_too_slowly_is_stopped(fake: Fake) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        await asyncio.sleep(PATIENCE_S)
        yield b"never"

    async def scenario(ask: Any, engine: Engine) -> httpx.Response:
        return await ask.client.post(URL, content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})

    response = over_http(scenario, fake, Limits(upload_s=0.1))
    assert (response.status_code, response.json()["error"]["code"]) == (408, "timeout")


def test_only_the_right_token_opens(fake: Fake) -> None:
    async def scenario(ask: Any, engine: Engine) -> list[int]:
        tokens = [None, "Bearer wrong", "right", "Bearer right", "Bearer rïght".encode()]
        answers = [await ask(wav(), {"Authorization": token} if token else None) for token in tokens]
        return [one.status_code for one in (*answers, await ask.client.get("/v1/models"))]

    assert over_http(scenario, fake, Limits(), token="right") == [401, 401, 401, 200, 401, 401]


def test_health_models_and_what_is_not_there(fake: Fake) -> None:
    async def scenario(ask: Any, engine: Engine) -> None:
        await ask(wav())
        health = (await ask.client.get("/health")).json()
        assert health.pop("uptime_s") >= 0
        assert health == {"status": "ok", "model": "tiny", "waiting": 0, "working": 0, "answered": 1, "batches": 1}
        assert (await ask.client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
        for missing, status in ((ask.client.get("/v2"), 404), (ask.client.get(URL), 405)):
            response = await missing
            assert (response.status_code, set(response.json())) == (status, {"error"})

    over_http(scenario, fake, Limits())


def test_a_busy_server_says_when_to_ask_again(fake: Fake) -> None:
    async def scenario(ask: Any, engine: Engine) -> None:
        fake.gate.clear()
        first = asyncio.create_task(ask(wav(800)))
        await asyncio.to_thread(fake.entered.acquire)
        second = asyncio.create_task(ask(wav(801)))
        while not engine.batcher.n_waiting:
            await asyncio.sleep(0.01)
        refused = await ask(wav(802))
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"]["code"] == "busy"
        assert (await ask.client.get("/health")).json()["waiting"] == 1
        fake.gate.set()
        assert [(await one).json()["text"] for one in (first, second)] == ["800", "801"]

    over_http(scenario, fake, Limits(n_waiting=1))


def test_a_client_that_left_is_not_heard(fake: Fake) -> None:
    async def scenario(ask: Ask, engine: Engine) -> None:
        async def gone() -> bool:
            return True

        fake.gate.clear()
        first = asyncio.create_task(ask(wav(800)))
        await asyncio.to_thread(fake.entered.acquire)
        with pytest.raises(Refusal, match="gone"):
            await engine.transcribe(lambda: silence(7), gone)
        fake.gate.set()
        await first

    over_http(scenario, fake, Limits())
    assert fake.batches == [[800]]


@asynccontextmanager
async def wyoming(service: Service) -> AsyncIterator[AsyncTcpClient]:
    async with AsyncTcpClient(*service.addresses["wyoming"], read_timeout=PATIENCE_S) as client:
        yield client


async def say(client: AsyncTcpClient, data: bytes, rate: int = 16_000, width: int = 2, channels: int = 1) -> None:
    """Send an utterance in small chunks."""
    await client.write_event(Transcribe(language="en").event())
    await client.write_event(AudioStart(rate, width, channels).event())
    for start in range(0, len(data), 1024):
        await client.write_event(AudioChunk(rate, width, channels, data[start : start + 1024]).event())
    await client.write_event(AudioStop().event())


async def read(client: AsyncTcpClient) -> Event:
    event = await client.read_event()
    assert event is not None
    return event


def over_wyoming(
    scenario: Callable[[Service], Coroutine[Any, Any, Any]], fake: Fake, limits: Limits | None = None
) -> None:
    """Run a scenario against a service on free ports of the loopback."""

    async def run() -> None:
        service = Service(Engine(fake.transcribe_waveforms, "tiny", limits))
        await service.start(http_port=None)
        try:
            await asyncio.wait_for(scenario(service), PATIENCE_S)
        finally:
            fake.gate.set()
            await service.stop()

    asyncio.run(run())


def test_wyoming_describes_itself_and_hears_several_utterances_on_one_connection(fake: Fake) -> None:
    async def scenario(service: Service) -> None:
        async with wyoming(service) as client:
            await client.write_event(Describe().event())
            (program,) = Info.from_event(await read(client)).asr
            assert (program.models[0].name, program.models[0].languages) == ("tiny", ["en"])
            await client.write_event(Ping("there?").event())
            assert Pong.from_event(await read(client)).text == "there?"
            await client.write_event(Event("something-new"))
            for form in ((16_000, 2, 1), (48_000, 4, 2), (8_000, 1, 1), (44_100, 3, 2)):
                rate, width, channels = form
                await say(client, bytes(rate * width * channels), *form)
                assert WyomingTranscript.from_event(await read(client)).text == "16000"

    over_wyoming(scenario, fake)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([AudioStop().event()], "bad_request"),
        ([Event("audio-start", {"rate": 16_000})], "bad_request"),
        ([Event("audio-chunk", {"rate": "x", "width": 2, "channels": 1}, b"12")], "bad_request"),
        ([AudioStart(16_000, 9, 1).event()], "bad_request"),
        ([AudioStart(10, 2, 1).event(), AudioStop().event()], "bad_request"),
        ([AudioStart(16_000, 2, 10**9).event()], "bad_request"),
        ([Transcribe(language="fr").event()], "bad_request"),
        ([Transcribe(name="gpt").event()], "not_found"),
        ([AudioChunk(16_000, 2, 1, bytes(2**14)).event()] * 9 + [AudioStop().event()], "too_large"),
        ([AudioChunk(1_000, 2, 1, bytes(2**13)).event(), AudioStop().event()], "too_large"),
    ],
)
def test_a_bad_wyoming_event_is_an_error_and_ends_the_connection(fake: Fake, events: list[Event], code: str) -> None:
    async def scenario(service: Service) -> None:
        async with wyoming(service) as client:
            for event in events:
                await client.write_event(event)
            assert Error.from_event(await read(client)).code == code
            assert await client.read_event() is None
        async with wyoming(service) as client:
            await say(client, bytes(1600))
            assert WyomingTranscript.from_event(await read(client)).text == "800"

    over_wyoming(scenario, fake, Limits(upload_bytes=2**17, duration_s=3.0))


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"{}\n", b'{"type": 1}\n', b'{"type": "audio-chunk", "data": null}\n',
        b'{"type": "x", "data_length": "y"}\n', b'{"type": "x", "payload_length": 1000000000000}\n', b"\0" * 2**18,
        b'{"type": "x", "payload_length": 9}\nshort', b"[" * 2**15 + b"\n",
    ],
)  # fmt: skip
def test_rubbish_ends_only_its_own_connection(fake: Fake, rubbish: bytes) -> None:
    async def scenario(service: Service) -> None:
        async with wyoming(service) as client:
            reader, writer = await asyncio.open_connection(*service.addresses["wyoming"])
            writer.write(rubbish)
            with suppress(ConnectionError):  # the server need not read all of it
                writer.write_eof()
                assert b"Traceback" not in await reader.read()
            writer.close()
            await say(client, bytes(1600))
            assert WyomingTranscript.from_event(await read(client)).text == "800"

    over_wyoming(scenario, fake)


def test_a_silent_client_is_cut_off_and_too_many_are_refused(fake: Fake) -> None:
    async def scenario(service: Service) -> None:
        async with wyoming(service) as first, wyoming(service) as second:
            await first.write_event(Ping().event())
            assert Error.from_event(await read(second)).code == "busy"
            assert Pong.is_type((await read(first)).type)
            assert await first.read_event() is None

    over_wyoming(scenario, fake, Limits(n_connections=1, idle_s=0.3))


def test_wyoming_is_told_when_busy_and_stopping_finishes_what_was_accepted(fake: Fake) -> None:
    async def scenario(service: Service) -> None:
        fake.gate.clear()
        async with (
            wyoming(service) as one,
            wyoming(service) as two,
            wyoming(service) as three,
            wyoming(service) as four,
        ):
            await say(one, bytes(1600))
            await asyncio.to_thread(fake.entered.acquire)
            await say(two, bytes(1602))
            while not service.engine.batcher.n_waiting:
                await asyncio.sleep(0.01)
            await say(three, bytes(1604))
            assert Error.from_event(await read(three)).code == "busy"
            stopping = asyncio.create_task(service.stop())
            while not service.engine.batcher.closing:
                await asyncio.sleep(0.01)
            await say(four, bytes(1606))
            assert Error.from_event(await read(four)).code == "stopping"
            fake.gate.set()
            texts = [WyomingTranscript.from_event(await read(client)).text for client in (one, two)]
            assert texts == ["800", "801"]
            await stopping

    over_wyoming(scenario, fake, Limits(n_waiting=1))


@pytest.mark.parametrize(
    ("host", "token", "wyoming_open", "problem"),
    [
        ("127.0.0.1", None, False, None),
        ("127.8.9.1", None, False, None),
        ("::1", None, False, None),
        ("localhost", None, False, None),
        ("0.0.0.0", None, True, "--token"),
        ("::", "secret", False, "--wyoming-open"),
        ("example.org", "secret", False, "--wyoming-open"),
        ("0.0.0.0", "secret", True, None),
    ],
)
def test_only_this_machine_is_let_in_unasked(
    host: str, token: str | None, wyoming_open: bool, problem: str | None
) -> None:
    if problem is None:
        check_exposure(host, True, True, token, wyoming_open)
        return
    with pytest.raises(SpeechformerError, match=problem):
        check_exposure(host, True, True, token, wyoming_open)


def test_the_second_part_of_an_answer_does_not_wait_for_the_first_to_be_acknowledged(fake: Fake) -> None:
    async def scenario(service: Service) -> None:
        await service.start(wyoming_port=None)
        server, _ = service._http
        while not server.started:
            await asyncio.sleep(0.01)
        (listener,) = server.servers[0].sockets
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    over_wyoming(scenario, fake)


def test_a_port_that_is_taken_is_one_sentence(fake: Fake) -> None:
    async def scenario(service: Service) -> None:
        port = service.addresses["wyoming"][1]
        with pytest.raises(SpeechformerError, match="cannot listen there"):
            await Service(service.engine).start(http_port=None, wyoming_port=port)

    over_wyoming(scenario, fake)


def test_the_shipped_model_says_the_same_through_both_protocols() -> None:
    async def run() -> None:
        transcriber = Transcriber.from_pretrained()
        expected = transcriber.transcribe(MUSIC).text
        assert expected
        service = Service(Engine(transcriber.transcribe_waveforms, "commands-en"), token="secret")
        await service.start()
        host, port = service.addresses["http"]
        headers = {"Authorization": "Bearer secret"}
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers=headers, timeout=60) as client:
            response = await client.post(URL, files={"file": MUSIC.read_bytes()})
            assert response.json() == {"text": expected}
        async with wyoming(service) as client:
            await say(client, (load_audio(MUSIC) * 32_767).astype("<i2").tobytes())
            assert WyomingTranscript.from_event(await read(client)).text == expected
        await service.stop()

    asyncio.run(run())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_signal_stops_the_server_in_order() -> None:
    code = """
import socket
import threading
from types import SimpleNamespace
from speechformer.serve import serve
serve(SimpleNamespace(transcribe_waveforms=lambda waveforms, names: []), "tiny", http_port=0, wyoming_port=0)
"""
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    with server.stderr:
        lines = [server.stderr.readline() for _ in range(2)]
        port = int(lines[0].rsplit(":", 1)[1])
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S).json()["status"] == "ok"
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0
        assert "Traceback" not in server.stderr.read()
