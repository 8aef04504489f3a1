"""The HTTP interface: OpenAI's completions and chat completions, models, health, metrics, and the demo page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from skipmodel.serve import bodies
from skipmodel.serve.answers import Answers
from skipmodel.serve.asks import model_names, read_query
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.errors import ERROR_SCHEMA, RequestError
from skipmodel.serve.gate import Gate
from skipmodel.serve.pages import add_demo
from skipmodel.serve.scheduler import Scheduler
from skipmodel.serve.schema import check, read_json
from skipmodel.serve.sequence import Piece
from skipmodel.serve.served import Served
from skipmodel.serve.stream import Disconnected, EventStream, discard, give_up, next_piece, until_gone

LOG = logging.getLogger(__name__)
STARTED = 1_700_000_000
"""`created` of the models, which has no meaning here; a constant keeps answers comparable."""
REFUSALS = {
    400: "The request does not fit; the message says what.",
    401: "The key is missing or wrong.",
    403: "The Host header names another machine.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not JSON by its content type.",
    429: "Too many requests are waiting.",
    500: "The server failed.",
    503: "No slot became free in time, or the server is stopping.",
    504: "The answer took too long.",
}


def make_app(served: Served, config: ServeConfig, scheduler: Scheduler, key: str | None) -> Gate:
    """Return the ASGI application; its life starts and stops the scheduler."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, scheduler.stop)

    app = FastAPI(title="SkipLayer", version="1", lifespan=life, docs_url=None, redoc_url=None,
                  description="OpenAI-compatible server of a model whose tokens may skip layers.")  # fmt: skip
    _add_errors(app)
    _add_reads(app, config, scheduler)
    if config.has_demo:
        add_demo(app, served, config)

    def add_post(path: str, schema: dict[str, Any], *, is_chat: bool) -> None:
        async def answer(request: Request) -> Response:
            body = read_json(await read_body(request, config))
            check(body, schema)
            query = read_query(body, served, config, is_chat=is_chat)
            return await _answer(request, scheduler, query, is_chat=is_chat)

        answer.__doc__ = "Write on from a conversation." if is_chat else "Write on from a prompt."
        content = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
        name = "chat" if is_chat else "completion"
        app.post(path, responses=_responses(), openapi_extra=content, name=name, response_class=JSONResponse,
                 response_model=None)(answer)  # fmt: skip

    add_post("/v1/completions", bodies.COMPLETION, is_chat=False)
    add_post("/v1/chat/completions", bodies.CHAT, is_chat=True)
    return Gate(app, config, key, scheduler.metrics)


async def _answer(request: Request, scheduler: Scheduler, query: Any, *, is_chat: bool) -> Response:
    """Queue the prompts of a request and tell the answers, whole or as they come."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
    answers = Answers(query, [], scheduler.tokenizer, is_chat=is_chat)
    try:
        for index, ask in enumerate(query.asks):

            def sink(piece: Piece, index: int = index) -> None:
                loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

            answers.sequences.append(scheduler.submit(ask, sink))
    except RequestError:
        give_up(scheduler, answers)
        raise
    if query.streams:
        return EventStream(scheduler, answers, pieces)
    gone = asyncio.ensure_future(until_gone(request.receive))
    try:
        while not answers.is_whole:
            answers.add(*await next_piece(pieces, gone))
        return JSONResponse(answers.whole())
    except Disconnected:
        scheduler.metrics.add("disconnects_total")
        return Response(status_code=499)
    finally:
        give_up(scheduler, answers)
        gone.cancel()


async def read_body(request: Request, config: ServeConfig) -> bytes:
    """Return the body of a request, within the limits of size and time.

    Raises:
        RequestError: It is no JSON by its content type, too long, or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        await discard(request.receive, config.read_timeout_s)
        raise RequestError(415, f"Content-Type: expected application/json, got {kind[:60] or 'none'}")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(config.read_timeout_s):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > config.max_body_bytes:
                    break
    except TimeoutError as error:
        raise RequestError(408, f"body: expected it within {config.read_timeout_s:g} s") from error
    if len(body) > config.max_body_bytes:
        if more:
            await discard(request.receive, config.read_timeout_s)
        raise RequestError(413, f"body: expected at most {config.max_body_bytes} bytes, got more")
    return bytes(body)


def _add_reads(app: FastAPI, config: ServeConfig, scheduler: Scheduler) -> None:
    async def models() -> Response:
        """List the names that requests may use."""
        data = [{"id": name, "object": "model", "created": STARTED, "owned_by": "skiplayer"}
                for name in model_names(config)]  # fmt: skip
        return JSONResponse({"object": "list", "data": data})

    async def model(name: str) -> Response:
        """Describe one model."""
        if name not in model_names(config):
            raise RequestError(404, f"model: no {name[:60]!r} here", param="model", code="model_not_found")
        return JSONResponse({"id": name, "object": "model", "created": STARTED, "owned_by": "skiplayer"})

    async def health() -> Response:
        """Tell that the server takes requests."""
        return JSONResponse({"status": "ok", "active": len(scheduler.active), "queued": len(scheduler.waiting)})

    async def metrics() -> Response:
        """Tell counters in the text format of Prometheus."""
        return PlainTextResponse(scheduler.metrics.text(), media_type="text/plain; version=0.0.4")

    plain = {"text/plain": {"schema": {"type": "string"}}}
    app.get("/v1/models", responses=_responses((401, 403)), response_model=None)(models)
    app.get("/v1/models/{name}", responses=_responses((401, 403, 404)), response_model=None)(model)
    app.get("/healthz", responses=_responses((403,)), response_model=None)(health)
    app.get("/metrics", responses=_responses((401, 403), plain), response_class=PlainTextResponse,
            response_model=None)(metrics)  # fmt: skip


def _add_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Any) -> Response:
        return JSONResponse(error.to_json(), error.status)

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def http(request: Request, error: Any) -> Response:
        told = RequestError(error.status_code, str(error.detail))
        return JSONResponse(told.to_json(), error.status_code, headers=error.headers)

    async def failed(request: Request, error: Any) -> Response:
        LOG.error("a request failed", exc_info=error)
        return JSONResponse(RequestError(500, "the server failed").to_json(), 500)

    app.exception_handler(RequestError)(refused)
    app.exception_handler(Disconnected)(gone)
    app.exception_handler(HTTPException)(http)
    app.exception_handler(404)(http)
    app.exception_handler(405)(http)
    app.exception_handler(Exception)(failed)


def _responses(statuses: tuple[int, ...] = tuple(REFUSALS), content: Any = None) -> dict[int | str, dict[str, Any]]:
    """Return the answers of an operation for the OpenAPI document."""
    if content is None:
        content = {"application/json": {"schema": {"type": "object"}}}
        if len(statuses) == len(REFUSALS):
            content["text/event-stream"] = {}
    told: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": content}}
    error = {"application/json": {"schema": ERROR_SCHEMA}}
    return told | {status: {"description": REFUSALS[status], "content": error} for status in statuses}
