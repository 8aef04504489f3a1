"""Connections with time limits, which uvicorn leaves to a proxy: half-open ones, and readers that do not read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CHECKS_PER_LIMIT = 4


def limited_protocol(read_timeout_s: float, write_timeout_s: float) -> type[H11Protocol]:
    """Return a protocol class with these limits.

    Args:
        read_timeout_s: A connection without a whole request head for so long is cut. [s]
        write_timeout_s: A connection whose reader takes nothing for so long is cut. [s]
    """
    return type("LimitedProtocol", (_Limited,), {"read_timeout_s": read_timeout_s, "write_timeout_s": write_timeout_s})


class _Limited(H11Protocol):
    read_timeout_s: float
    write_timeout_s: float
    _watch: asyncio.TimerHandle | None = None
    _waits_s = 0.0
    _stuck_s = 0.0
    _buffered = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _again(self) -> None:
        self._period_s = min(self.read_timeout_s, self.write_timeout_s) / CHECKS_PER_LIMIT
        self._watch = self.loop.call_later(self._period_s, self._look)

    def _look(self) -> None:
        if self.transport is None or self.transport.is_closing():
            # a closing transport still waits for its buffer, which a dead reader never takes
            if self.transport is not None and self.transport.get_write_buffer_size():
                self.transport.abort()
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        self._waits_s = self._waits_s + self._period_s if is_idle else 0.0
        buffered = self.transport.get_write_buffer_size()
        is_stuck = buffered > 0 and buffered >= self._buffered
        self._stuck_s = self._stuck_s + self._period_s if is_stuck else 0.0
        self._buffered = buffered
        if self._waits_s >= self.read_timeout_s or self._stuck_s >= self.write_timeout_s:
            self.transport.abort()
            return
        self._again()
