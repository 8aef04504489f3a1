"""Sending an answer while it is written, and giving it up when nobody reads it any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Response

from skipmodel.serve.answers import Answers
from skipmodel.serve.errors import RequestError
from skipmodel.serve.scheduler import Scheduler
from skipmodel.serve.sequence import Piece

DISCARDED_BYTES = 16 << 20
"""Of a refused body so much is read before the connection is closed on it."""
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


class Disconnected(Exception):  # noqa: N818 - not an error of ours
    """The client has left."""


async def next_piece(pieces: asyncio.Queue[tuple[int, Piece]], gone: asyncio.Task[None]) -> tuple[int, Piece]:
    """Return the next piece of an answer.

    Raises:
        Disconnected: The client left first.
        RequestError: The answer failed.
    """
    getting = asyncio.ensure_future(pieces.get())
    try:
        await asyncio.wait({getting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            raise Disconnected
        index, piece = getting.result()
    finally:
        getting.cancel()
    if piece.error is not None:
        raise RequestError(piece.error[0], piece.error[1])
    return index, piece


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def discard(receive: Receive, seconds: float) -> None:
    """Read the rest of a body and forget it, for a while: closing on a client that still sends loses the answer."""
    n_bytes = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while n_bytes < DISCARDED_BYTES:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def give_up(scheduler: Scheduler, answers: Answers) -> None:
    """Cancel what is still being written."""
    for sequence in answers.sequences:
        if not sequence.is_done:
            scheduler.cancel(sequence)


class EventStream(Response):
    """Server-sent events of an answer.

    A reader who is slower than the model keeps the connection's buffer full, and only this task waits: the answer is
    written on and its slot is free when it ends. The connection itself is cut by `skipmodel.serve.protocol`.
    """

    media_type = "text/event-stream"

    def __init__(
        self, scheduler: Scheduler, answers: Answers, pieces: asyncio.Queue[tuple[int, Piece]]
    ) -> None:  # fmt: skip
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.scheduler, self.answers, self.pieces = scheduler, answers, pieces

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send the answer; part of the ASGI protocol."""
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for chunk in self.answers.first_chunks():
                await self._event(send, chunk)
            await self._pieces(send, gone)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        except (Disconnected, OSError):
            self.scheduler.metrics.add("disconnects_total")
        finally:
            give_up(self.scheduler, self.answers)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _pieces(self, send: Send, gone: asyncio.Task[None]) -> None:
        try:
            while not self.answers.is_whole:
                index, piece = await next_piece(self.pieces, gone)
                piece = self.answers.add(index, piece)
                if piece.text or piece.tokens or piece.finish:
                    await self._event(send, self.answers.chunk(index, piece))
                if gone.done():
                    raise Disconnected
        except RequestError as error:
            await self._event(send, error.to_json())
            return
        last = self.answers.last_chunk()
        if last is not None:
            await self._event(send, last)

    async def _event(self, send: Send, value: dict[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
