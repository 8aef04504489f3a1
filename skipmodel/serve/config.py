"""Settings of the server. Loads without torch."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Literal

from skipmodel.errors import ConfigError

KEY_VARIABLE = "SKIP_POC_API_KEY"
"""Environment variable of the key that clients must send; needed when the server is not on loopback."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

Batching = Literal["auto", "lanes", "rows"]


@dataclass(frozen=True)
class ServeConfig:
    """What the server can be told.

    Attributes:
        host, port: Where it listens.
        name: Name of the model in requests; beside it `NAME-dense` and `NAME-lossless` are offered.
        slots: Answers written at once.
        context: Longest prompt and answer together; the cache holds `slots` of them. [tokens]
        batching: `lanes` runs rows by the operations of batch-1 decoding, `rows` multiplies them at once; `auto`
            takes lanes on a CPU with up to four slots.
        max_queue: Requests that may wait for a slot; the next one is told 429.
        max_tokens: Longest answer; requests that ask for more get this. [tokens]
        max_body_bytes: Longest request body.
        prefill_tokens: Prompt tokens read between two decode steps.
        draft_tokens: Most tokens drafted at once in lossless mode.
        queue_timeout_s, request_timeout_s: Waiting for a slot; all of a request. [s]
        read_timeout_s, write_timeout_s: For a request to arrive; for a reader to take what was written. [s]
        drain_s: Running answers may take so long after the signal to stop. [s]
        max_connections: Open connections; more are told 503.
        use_rule: Ask the engagement rule whether skipping pays, per request; measured when the server starts.
        has_demo: Serve the demo page.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "skiplayer"
    slots: int = 4
    context: int = 2048
    batching: Batching = "auto"
    max_queue: int = 256
    max_tokens: int = 2048
    max_body_bytes: int = 1 << 20
    prefill_tokens: int = 256
    draft_tokens: int = 8
    queue_timeout_s: float = 120.0
    request_timeout_s: float = 600.0
    read_timeout_s: float = 15.0
    write_timeout_s: float = 30.0
    drain_s: float = 30.0
    max_connections: int = 1024
    use_rule: bool = True
    has_demo: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: A value is out of range.
        """
        whole = ("slots", "context", "max_queue", "max_tokens", "max_body_bytes", "prefill_tokens", "draft_tokens",
                 "max_connections")  # fmt: skip
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f"serve.{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("queue_timeout_s", "request_timeout_s", "read_timeout_s", "write_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"serve.{name}: expected more than 0 s, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"serve.port: expected 0 to 65535, got {self.port}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host in LOCAL_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def api_key(config: ServeConfig) -> str | None:
    """Return the key that clients must send, None where none is set.

    Raises:
        ConfigError: The server would be reachable from other machines without a key.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key and not config.is_local:
        raise ConfigError(
            f"serve.host {config.host}: expected a key for a server that other machines reach, the environment "
            f"variable {KEY_VARIABLE} is empty; set it, or listen on 127.0.0.1"
        )
    return key or None
