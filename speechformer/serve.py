"""A resident engine: one loaded model that answers over HTTP and the Wyoming protocol, until it is told to stop.

POST /v1/audio/transcriptions ─┐
                               ├─▶ read ─▶ waveform_N ─▶ Batcher ─▶ Transcript
Wyoming audio-start … -stop   ─┘   (two threads)         (one thread, which owns the model)
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from wyoming.error import Error
from wyoming.event import async_write_event

from speechformer.engine import CODES, Engine, Limits
from speechformer.errors import SpeechformerError
from speechformer.http_server import make_app
from speechformer.transcribe import Transcriber
from speechformer.wyoming_server import Reader, Talk

HOST, HTTP_PORT, WYOMING_PORT = "127.0.0.1", 8300, 10300


class _HttpServer(uvicorn.Server):
    """uvicorn, but the signals are Service's, which stops both protocols."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Service:
    """An engine behind its sockets, in the running event loop."""

    def __init__(self, engine: Engine, token: str | None = None) -> None:
        self.engine, self.token = engine, token
        self.addresses: dict[str, tuple[str, int]] = {}
        self._http: tuple[_HttpServer, asyncio.Task[None]] | None = None
        self._wyoming: asyncio.Server | None = None
        self._talks: dict[asyncio.Task[Any], Talk] = {}

    async def start(self, host: str = HOST, http_port: int | None = 0, wyoming_port: int | None = 0) -> None:
        """Listen; None leaves a protocol out, port 0 is any free one, and `addresses` says which."""
        if http_port is not None:
            listener = self._bind("http", host, http_port)
            config = uvicorn.Config(
                make_app(self.engine, self.token), lifespan="off", log_config=None, access_log=False,
                server_header=False, limit_concurrency=self.engine.limits.n_connections,
                timeout_graceful_shutdown=math.ceil(self.engine.limits.stop_s),
            )  # fmt: skip
            server = _HttpServer(config)
            self._http = server, asyncio.create_task(server.serve([listener]))
        if wyoming_port is not None:
            listener = self._bind("wyoming", host, wyoming_port)
            loop = asyncio.get_running_loop()
            self._wyoming = await loop.create_server(self._protocol, sock=listener)

    def _bind(self, protocol: str, host: str, port: int) -> socket.socket:
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            # Connections take this over. Without it, the second part of an answer waits 40 ms for the client to
            # acknowledge the first; asyncio sets it for sockets that say they are TCP, which these do not.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise SpeechformerError(f"{host}:{port}: cannot listen there ({reason}); give another port") from error
        self.addresses[protocol] = listener.getsockname()[:2]
        return listener

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = Reader()
        reader.limits = self.engine.limits
        return asyncio.StreamReaderProtocol(reader, self._welcome)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, talk = asyncio.current_task(), Talk(self.engine, reader, writer)
        assert task is not None
        if len(self._talks) >= self.engine.limits.n_connections:
            await async_write_event(Error("the server is busy; ask again in a second", CODES[429]).event(), writer)
            writer.close()
            return
        self._talks[task] = talk
        try:
            await talk.run()
        finally:
            del self._talks[task]

    async def stop(self) -> None:
        """Refuse what is new, answer what was accepted, and close the sockets."""
        await asyncio.to_thread(self.engine.close)
        if self._wyoming:
            self._wyoming.close()
            for talk in list(self._talks.values()):
                if not talk.answering:
                    await talk.stop()
            if self._talks:
                await asyncio.wait(set(self._talks), timeout=self.engine.limits.stop_s)
        if self._http:
            server, task = self._http
            server.should_exit = True
            await task


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_exposure(host: str, http: bool, wyoming: bool, token: str | None, wyoming_open: bool) -> None:
    """Raise SpeechformerError where others than this machine could use the model without being asked who they are."""
    if is_loopback(host):
        return
    if http and not token:
        raise SpeechformerError(f"{host} can be reached from other machines; give a --token, or --http-port none")
    if wyoming and not wyoming_open:
        raise SpeechformerError(
            f"Wyoming has no passwords and {host} can be reached from other machines; give --wyoming-open if all of "
            f"them may use it, or --wyoming-port none"
        )


def serve(
    transcriber: Transcriber,
    name: str,
    host: str = HOST,
    http_port: int | None = HTTP_PORT,
    wyoming_port: int | None = WYOMING_PORT,
    token: str | None = None,
    wyoming_open: bool = False,
    limits: Limits | None = None,
) -> None:
    """Answer until SIGINT or SIGTERM, then finish what was accepted; a second SIGINT stops at once.

    `name` is what clients call the model. A port of None leaves a protocol out.
    """
    check_exposure(host, http_port is not None, wyoming_port is not None, token, wyoming_open)

    async def run() -> None:
        service = Service(Engine(transcriber.transcribe_waveforms, name, limits), token)
        await service.start(host, http_port, wyoming_port)
        for protocol, (address, port) in service.addresses.items():
            print(f"speechformer: listening for {protocol} on {address}:{port}", file=sys.stderr, flush=True)
        await _signalled()
        print("speechformer: stopping; what was accepted is finished", file=sys.stderr, flush=True)
        await service.stop()

    asyncio.run(run())


async def _signalled() -> None:
    """Wait for SIGINT or SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError):  # on Windows Ctrl-C stops at once
        for one in signals:
            loop.add_signal_handler(one, stop.set)
    await stop.wait()
    for one in signals:
        loop.remove_signal_handler(one)
