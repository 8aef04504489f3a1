"""The server under load and under attack: no answer wrong, mixed or lost, memory flat, slots free again.

`SKIP_POC_LOAD_S=60` lengthens the load from some seconds to a minute.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from skipmodel.serve.config import ServeConfig
from skipmodel.serve.served import Served
from tests.unit.skipmodel.serve.helpers import PROMPTS, Running, make_served, running

LOAD_S = float(os.environ.get("SKIP_POC_LOAD_S", "6"))
N_CLIENTS = 64
CONFIG = ServeConfig(port=0, slots=8, context=96, max_tokens=90, batching="rows", read_timeout_s=2.0,
                     write_timeout_s=2.0, drain_s=5.0, max_body_bytes=1 << 16)  # fmt: skip
MAX_GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("base"))


def request(number: int) -> dict[str, Any]:
    """Return one of 48 requests: every arm, greedy and sampled, short and long."""
    draws = random.Random(number % 48)
    return {
        "model": draws.choice(["skiplayer", "skiplayer-dense", "skiplayer-lossless"]),
        "prompt": draws.choice(PROMPTS) * draws.randint(1, 3), "max_tokens": draws.randint(1, 24),
        "temperature": draws.choice([0, 0.9]), "seed": number % 48, "skip_details": True,
    }  # fmt: skip


def ask(server: Running, body: dict[str, Any], streams: bool) -> tuple[str, str]:
    """Return text and finish reason, whole or streamed."""
    if not streams:
        status, answer = server.post("/v1/completions", body)
        assert status == 200, answer
        return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]
    *events, last = server.events("/v1/completions", body)
    assert last == "[DONE]", events[-1:]
    choices = [event["choices"][0] for event in events if event["choices"]]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


@pytest.mark.slow
def test_64_clients_get_their_own_answers(served: Served) -> None:
    """Each answer equals its single-request answer; memory does not grow; every slot is free afterwards."""
    with running(served, dataclasses.replace(CONFIG, slots=1)) as single:
        alone = [ask(single, request(i), streams=False) for i in range(48)]
    wrong: list[Any] = []
    counts = [0] * N_CLIENTS
    with running(served, CONFIG) as server:
        until = time.monotonic() + LOAD_S
        sizes: list[int] = []

        def client(number: int) -> None:
            draws = random.Random(number)
            while time.monotonic() < until or counts[number] == 0:
                which = draws.randrange(48)
                try:
                    got = ask(server, request(which), streams=draws.random() < 0.5)
                except (OSError, AssertionError) as error:
                    wrong.append((which, repr(error)))
                    return
                if got != alone[which]:
                    wrong.append((which, got, alone[which]))
                counts[number] += 1

        threads = [threading.Thread(target=client, args=(i,)) for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        process = psutil.Process()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.25)
            sizes.append(process.memory_info().rss)
        server.wait_idle()
        assert len(server.scheduler.free) == CONFIG.slots
        assert server.scheduler.metrics.value("requests_total", outcome="ok") == sum(counts)
    assert wrong == []
    assert min(counts) >= 1
    assert len({text for text, _ in alone}) > 24
    settled = sizes[len(sizes) // 3 :]
    assert settled[-1] - settled[0] < MAX_GROWTH_BYTES


def connect(server: Running, content: bytes, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(30)
    client.connect(("127.0.0.1", server.port))
    client.sendall(content)
    return client


def head(length: int, more: bytes = b"") -> bytes:
    return (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n%s\r\n" % (length, more))  # fmt: skip


def answer_of(client: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    client.close()
    return b"".join(parts)


HOSTILE: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n", (400,)),
    "malformed JSON": (head(9) + b'{"prompt"', (400,)),
    "bad UTF-8": (head(16) + b'{"prompt": "\xff\xfe"}', (400,)),
    "a length that is no number": (head(0).replace(b"Length: 0", b"Length: x"), (400,)),
    "an oversized body": (head(1 << 30), (413,)),
    "an oversized body in chunks": (
        head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        + b"ffff\r\n" + b" " * 0xFFFF + b"\r\n0\r\n\r\n", (413,)),
    "a body that never ends": (head(500) + b'{"prompt": "a', (408,)),
    "a head that never ends": (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ", ()),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 200_000, (400,)),
    "nothing at all": (b"", ()),
    "a null in the path": (b"GET /v1/models/%00%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (404,)),
    "deep nesting": (head(60_000) + b'{"prompt":' + b"[" * 59_990, (400,)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_get_an_answer_or_a_closed_connection(served: Served, name: str) -> None:
    """The status said, or nothing where none can be sent; others are answered all the while."""
    content, statuses = HOSTILE[name]
    with running(served, CONFIG) as server:
        client = connect(server, content)
        assert ask(server, request(1), streams=True)[1] in ("stop", "length")
        if statuses:
            line = b""
            while b"\r\n" not in line and (part := client.recv(1)):
                line += part
            assert int(line.split()[1]) in statuses
        else:
            assert answer_of(client) == b""
        client.close()
        server.wait_idle()


def test_slow_and_dead_readers_hold_no_slot_for_ever(served: Served) -> None:
    """Readers that take nothing, or reset, while the model writes: cut off, their slots free, memory not kept."""
    body = json.dumps({"prompt": list(PROMPTS) * 8, "max_tokens": 90, "ignore_eos": True, "stream": True,
                       "logprobs": 20}).encode()  # fmt: skip
    with running(served, CONFIG) as server:
        dead = [connect(server, head(len(body)) + body, receive_buffer=2048) for _ in range(3)]
        reset = connect(server, head(len(body)) + body)
        reset.recv(100)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        until = time.monotonic() + 120
        while len(server.server.server_state.connections) > 0 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(server.server.server_state.connections) == 0
        server.wait_idle()
        assert len(server.scheduler.free) == CONFIG.slots
        assert ask(server, request(2), streams=False)[1] in ("stop", "length")
        for client in dead:
            client.close()
    gc.collect()


def test_stopping_under_load_lets_running_answers_end(served: Served) -> None:
    """As on SIGTERM: every answer that was accepted is whole, new connections are refused, the thread ends."""
    config = dataclasses.replace(CONFIG, drain_s=60.0)
    outcomes: list[Any] = []
    with running(served, config) as server:

        def client(number: int) -> None:
            try:
                outcomes.append(ask(server, request(number) | {"max_tokens": 40, "ignore_eos": True}, streams=True)[1])
            except OSError:
                outcomes.append("refused")

        threads = [threading.Thread(target=client, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        while len(server.scheduler.active) + len(server.scheduler.waiting) < 24 and any(t.is_alive() for t in threads):
            time.sleep(0.005)
        server.server.should_exit = True
        for thread in threads:
            thread.join(120)
        server.thread.join(60)
        assert not server.thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            server.send("GET", "/healthz")
    assert len(outcomes) == 24
    assert set(outcomes) == {"length"}


def test_a_drain_that_takes_too_long_is_cut(served: Served, tmp_path: Path) -> None:
    """Behind the limit, answers are cut off and the server ends all the same."""
    with running(served, dataclasses.replace(CONFIG, drain_s=1.0)) as server:
        slow = server.scheduler.rows.run
        server.scheduler.rows.run = lambda *a: (time.sleep(0.2), slow(*a))[1]  # type: ignore[method-assign]
        body = json.dumps({"prompt": "To", "max_tokens": 90, "ignore_eos": True, "stream": True}).encode()
        client = connect(server, head(len(body)) + body)
        client.recv(10)
        started = time.monotonic()
        server.server.should_exit = True
        server.thread.join(60)
        assert not server.thread.is_alive()
        assert time.monotonic() - started < 15  # whole it would take 18 s
        assert b"[DONE]" not in answer_of(client)
