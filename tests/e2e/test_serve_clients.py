"""Clients that others wrote, unmodified: OpenAI's library, GuideLLM, and requests made from the OpenAPI document.

`SKIP_POC_API_CASES=5000` lengthens the last from some hundred requests to thousands.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipmodel.serve.config import ServeConfig
from tests.unit.skipmodel.serve.helpers import PROMPTS, Running, make_served, running

KEY = "test-key"
N_CASES = int(os.environ.get("SKIP_POC_API_CASES", "300"))
CONFIG = ServeConfig(port=0, slots=4, context=256, max_tokens=64, max_body_bytes=1 << 18)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Running]:
    with running(make_served(base), CONFIG, KEY) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    openai = pytest.importorskip("openai", reason="openai not found; run: pip install openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def test_openai_completions(client: Any, server: Running) -> None:
    """Models, whole and streamed answers, log probabilities, seeds, and our fields in extra_body."""
    assert next(iter(client.models.list())).id == "skiplayer"
    asked = {"model": "skiplayer", "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=3)
    stream = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    dense = client.completions.create(**asked, extra_body={"skip_level": 0})
    assert dense.model_extra["skip"]["skip_rate"] == 0
    seeded = [client.completions.create(**(asked | {"temperature": 1}), seed=5).choices[0].text for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_openai_chat(client: Any) -> None:
    """Whole, streamed, and with log probabilities."""
    asked: dict[str, Any] = {"model": "skiplayer", "messages": [{"role": "user", "content": "設定は"}],
                             "max_completion_tokens": 10, "temperature": 0}  # fmt: skip
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].delta.role == "assistant"
    assert chunks[-1].finish_reason == whole.choices[0].finish_reason
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens


def test_openai_errors(client: Any, server: Running) -> None:
    """The library raises its own errors: wrong key, wrong model, wrong value."""
    import openai

    with pytest.raises(openai.NotFoundError, match="expected one of skiplayer"):
        client.completions.create(model="gpt-5", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="skiplayer", prompt="a", temperature=3)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()


def run(command: list[str], folder: Path, timeout_s: float) -> str:
    """Run a tool in a folder, cut off from registries; return what it says."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
                          timeout=timeout_s)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_guidellm(server: Running, base: Path, tmp_path: Path) -> None:
    """A public load generator drives the server and finds no failed request."""
    pytest.importorskip("guidellm", reason="guidellm not found; run: pip install guidellm")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", "utf-8")
    options = {
        "target": server.url,
        "backend-args": json.dumps({"api_key": KEY}),
        "model": "skiplayer",
        "processor": str(base),
        "data": "prompts.txt",
        "rate-type": "poisson",
        "rate": "4",
        "max-requests": "12",
        "output-path": "out.json",
    }
    command = [str(Path(sys.executable).with_name("guidellm")), "benchmark", "--disable-progress"]
    run([*command, *(f"--{name}={value}" for name, value in options.items())], tmp_path, 240)
    (benchmark,) = json.loads((tmp_path / "out.json").read_text("utf-8"))["benchmarks"]
    assert len(benchmark["requests"]["errored"]) == 0
    assert len(benchmark["requests"]["successful"]) >= 12
    assert benchmark["metrics"]["time_to_first_token_ms"]["successful"]["median"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_request_from_the_document_breaks_the_server(server: Running, tmp_path: Path) -> None:
    """Fitting and unfitting requests: no 5xx, statuses, content types and bodies as the document says."""
    pytest.importorskip("schemathesis", reason="schemathesis not found; run: pip install schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    options = {"checks": checks, "header": f"Authorization: Bearer {KEY}", "request-timeout": "60", "warnings": "off",
               "max-examples": str(min(150, max(5, N_CASES // 40)))}  # fmt: skip
    n_sent, seed = 0, 0
    while n_sent < N_CASES:
        seed += 1
        told = run(
            [*command, *(f"--{name}={value}" for name, value in options.items()), f"--seed={seed}"], tmp_path, 3500
        )
        found = re.search(r"(\d+) generated", told)
        assert found is not None, told[-2000:]
        n_sent += int(found.group(1))
    server.wait_idle()
    assert len(server.scheduler.free) == CONFIG.slots
