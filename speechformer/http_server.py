"""The engine over HTTP: `POST /v1/audio/transcriptions` as OpenAI has it, models, and health."""

from __future__ import annotations

import asyncio
import hmac
from functools import partial
from typing import Annotated, Any, Literal

import python_multipart  # noqa: F401  FastAPI reads forms with it, and says so only when it is missing
from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechformer import __version__
from speechformer.engine import CODES, Engine, Limits, Refusal, read_upload, too_large
from speechformer.formats import write
from speechformer.transcript import Transcript

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
ENVELOPE = 64 * 2**10  # bytes of a form beside its file

ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt"]


def make_app(engine: Engine, token: str | None = None) -> FastAPI:
    """Return the HTTP side: OpenAI's transcriptions and models, and /health, which asks for no token."""
    app = FastAPI(title="speechformer", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(_Door, token=token, limits=engine.limits)
    app.add_exception_handler(Refusal, lambda _, error: _refuse(error))
    app.add_exception_handler(RequestValidationError, lambda _, error: _refuse(_explain(error)))
    app.add_exception_handler(Exception, lambda *_: _refuse(Refusal(500, "the server failed; its log says why")))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return engine.health()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        one = {"id": engine.name, "object": "model", "created": 0, "owned_by": "speechformer"}
        return {"object": "list", "data": [one]}

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: UploadFile,
        model: Annotated[str, Form()] = "",
        language: Annotated[str, Form()] = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
    ) -> Response:
        engine.check(model, language)
        read = partial(read_upload, file.file, engine.limits)
        return _respond(await engine.transcribe(read, request.is_disconnected), response_format)

    return app


def _respond(transcript: Transcript, form: ResponseFormat) -> Response:
    if form == "json":
        return JSONResponse({"text": transcript.text})
    if form == "verbose_json":
        return JSONResponse(_verbose(transcript))
    return PlainTextResponse(transcript.text + "\n" if form == "text" else write(transcript, form))


def _verbose(transcript: Transcript) -> dict[str, Any]:
    """Return what OpenAI calls verbose_json; with a command set, also its answer, as `transcribe` writes it."""
    plain = transcript.to_dict()
    timed = [(one, {"start": one["start_s"], "end": one["end_s"]}) for one in plain["segments"]]
    words = [
        {"word": word["text"], "start": word["start_s"], "end": word["end_s"]}
        for one, _ in timed
        for word in one.get("words", ())
    ]
    answer = {key: plain[key] for key in ("status", "confidence", "intent", "slots") if key in plain}
    segments = [{"id": i, "text": one["text"], **times} for i, (one, times) in enumerate(timed)]
    verbose = {
        "task": "transcribe", "language": "english", "duration": plain["duration_s"], "text": transcript.text,
        "segments": segments,
    }  # fmt: skip
    return verbose | ({"words": words} if words else {}) | answer


def _refuse(refusal: Any) -> JSONResponse:
    """Return a refusal in the shape of OpenAI's errors."""
    status: int = refusal.status_code
    error = {
        "message": refusal.detail, "type": TYPES.get(status, "invalid_request_error"), "param": None,
        "code": CODES.get(status, "bad_request"),
    }  # fmt: skip
    return JSONResponse({"error": error}, status, refusal.headers)


def _explain(error: Any) -> Refusal:
    first = error.errors()[0]
    return Refusal(400, f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}")


class _Door:
    """Ask for the token before anything is read, and stop a body that grows too large or comes too slowly."""

    def __init__(self, app: ASGIApp, token: str | None, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.expected = f"Bearer {token}".encode() if token else None
        self.max_bytes = limits.upload_bytes + ENVELOPE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope["path"], Headers(scope=scope))
            if refusal:
                await _refuse(refusal)(scope, receive, send)
                return
            receive = self._counted(receive)
        await self.app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        given = headers.get("authorization", "").encode()
        if self.expected and path != "/health" and not hmac.compare_digest(given, self.expected):
            wanted = {"WWW-Authenticate": "Bearer"}
            return Refusal(401, "the token is missing or wrong; send it as Authorization: Bearer TOKEN", wanted)
        length = headers.get("content-length", "")
        return too_large(self.limits) if length.isdecimal() and int(length) > self.max_bytes else None

    def _counted(self, receive: Receive) -> Receive:
        n_bytes, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.limits.upload_s

        async def counted() -> Message:
            nonlocal n_bytes, is_whole
            if is_whole:  # what comes now is that the client goes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                late = f"the recording took longer than {self.limits.upload_s:g} s to arrive; send it again"
                raise Refusal(408, late, {"Connection": "close"}) from error
            is_whole = not message.get("more_body", False)
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_bytes:
                raise too_large(self.limits)
            return message

        return counted
