"""What every request passes before the application sees it: host, key, size; and headers that every answer carries.

A page that somebody opens in a browser on this machine can send requests to a loopback address. Checking the Host
header keeps out names that were pointed here later (DNS rebinding); asking for JSON by its content type keeps out
requests that a browser sends without asking first.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from skipmodel.serve.config import LOCAL_NAMES, ServeConfig
from skipmodel.serve.errors import RequestError
from skipmodel.serve.metrics import Metrics
from skipmodel.serve.stream import DISCARDED_BYTES, Receive, Send, discard

OPEN_PATHS = ("/healthz", "/demo", "/demo/demo.js", "/demo/demo.css", "/favicon.ico")
"""Answered without a key: they tell nothing."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Gate:
    """ASGI application around the server's own."""

    def __init__(self, app: Any, config: ServeConfig, key: str | None, metrics: Metrics) -> None:
        self.app, self.config, self.key, self.metrics = app, config, key, metrics

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let a request through or answer it; part of the ASGI protocol."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            self._check(scope)
        except RequestError as error:
            self.metrics.add("refused_total", status=str(error.status))
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and 0 < int(length[:20]) <= DISCARDED_BYTES:
                await discard(receive, self.config.read_timeout_s)
            body = json.dumps(error.to_json()).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                       (b"connection", b"close")]  # fmt: skip
            if error.status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await with_headers({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, with_headers)

    def _check(self, scope: Any) -> None:
        headers = dict(scope["headers"])
        if self.config.is_local:
            name = headers.get(b"host", b"localhost").decode("latin-1").lower()
            name = name.rpartition(":")[0] if not name.endswith("]") and ":" in name else name
            if name.strip("[]") not in (*LOCAL_NAMES, self.config.host):
                raise RequestError(403, "Host: expected localhost or a loopback address", code="wrong_host")
        if self.key is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.key.encode()):
                raise RequestError(401, "Authorization: expected Bearer and the server's key", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.config.max_body_bytes:
            raise RequestError(413, f"body: expected at most {self.config.max_body_bytes} bytes, got {length.decode()}")
