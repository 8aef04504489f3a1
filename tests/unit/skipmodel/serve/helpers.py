"""A tiny model that is served, and a server of it in a thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skipmodel.config import SkipConfig
from skipmodel.engine.executor import Engine
from skipmodel.guards import ServingGuards
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.serve.command import listen, make_server
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.scheduler import Scheduler
from skipmodel.serve.served import Served, open_rows
from tests.tiny import save_base_folder

TEXTS = [
    "The server reads its configuration once. 設定はサーバーの起動時に一度だけ読み込まれます。",
    "<script>alert(1)</script> To restart the server run the command below, then look into the log.",
]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PROMPTS = ("The server", "設定は", "Look into the log, then", "<script>", "To", "restart restart restart restart")


def make_model(folder: Path) -> tuple[SkipLayerForCausalLM, Any]:
    """Return a random routed model that writes different things for different prompts, and its tokenizer."""
    save_base_folder(folder, TEXTS)
    base: Any = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in base.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3 + (1.0 if "norm" in name else 0.0)
    model = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=4, always_run_first=1, always_run_last=1))
    for _, module in model.routed:
        for parameter in [*module.router.parameters(), *module.skip_path.parameters()]:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.config.level_logits = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
    model.set_threshold(0.5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    return model.eval(), tokenizer


def make_served(folder: Path, guards: ServingGuards | None = None) -> Served:
    """Return the tiny model as it is served, at a threshold that skips about half."""
    model, tokenizer = make_model(folder)
    return Served(Engine(model), tokenizer, guards or ServingGuards(), tuple(model.config.level_logits), 0.0)


@dataclass
class Running:
    """A server that runs in a thread."""

    url: str
    port: int
    scheduler: Scheduler
    server: Any
    thread: threading.Thread

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Send JSON, or bytes as they are; return status and parsed answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"Content-Type": "application/json"} | (headers or {}))

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        """Send a request; return status and answer, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = "json" in answer.headers.get("content-type", "")
            return answer.status, json.loads(content) if is_json else content.decode()

    def events(self, path: str, body: Any) -> list[Any]:
        """Send a streaming request; return its events, the last one '[DONE]'."""
        _, text = self.post(path, body | {"stream": True})
        parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        return [part if part == "[DONE]" else json.loads(part) for part in parts]

    def wait_idle(self) -> None:
        """Wait until no answer is being written and none waits."""
        until = time.monotonic() + 60
        while (self.scheduler.active or self.scheduler.waiting) and time.monotonic() < until:
            time.sleep(0.01)
        assert not self.scheduler.active
        assert not self.scheduler.waiting


@contextlib.contextmanager
def running(served: Served, config: ServeConfig, key: str | None = None) -> Iterator[Running]:
    """Run a server on a free port; it is stopped as by a signal at the end."""
    listener = listen(config)
    server, scheduler = make_server(served, config, key, open_rows(served.engine, config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    port = listener.getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", port, scheduler, server, thread)
    finally:
        server.should_exit = True
        thread.join(60)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        assert not thread.is_alive()
