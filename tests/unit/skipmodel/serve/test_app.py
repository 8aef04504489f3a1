"""The HTTP interface, over real connections."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from skipmodel.errors import ConfigError
from skipmodel.serve.config import KEY_VARIABLE, ServeConfig, api_key
from skipmodel.serve.served import Served
from tests.unit.skipmodel.serve.helpers import PROMPTS, Running, make_served, running

CONFIG = ServeConfig(port=0, slots=4, context=128, max_tokens=100, read_timeout_s=3.0, write_timeout_s=3.0,
                     has_demo=True, max_body_bytes=1 << 18)  # fmt: skip
GREEDY = {"prompt": "The server", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[Running]:
    with running(served, CONFIG) as started:
        yield started


def test_models_are_the_skip_model_and_its_rivals(server: Running) -> None:
    """Three names, each described, another one is 404."""
    _, listed = server.send("GET", "/v1/models")
    names = [entry["id"] for entry in listed["data"]]
    assert names == ["skiplayer", "skiplayer-dense", "skiplayer-lossless"]
    assert all(server.send("GET", f"/v1/models/{name}")[0] == 200 for name in names)
    assert server.send("GET", "/v1/models/other")[0] == 404


@pytest.mark.parametrize("more", [{}, {"temperature": 1, "seed": 3}, {"stop": ["e"]}, {"logprobs": 2}, {"echo": True}])
def test_a_stream_is_the_whole_answer(server: Running, more: dict[str, Any]) -> None:
    """Pieces joined, log probabilities and offsets joined, usage and finish reason: as without streaming."""
    body = GREEDY | more
    _, whole = server.post("/v1/completions", body)
    *events, last = server.events("/v1/completions", body | {"stream_options": {"include_usage": True}})
    pieces = [event["choices"][0] for event in events if event["choices"]]
    assert last == "[DONE]"
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert pieces[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert events[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    if "logprobs" in more:
        for name, told in whole["choices"][0]["logprobs"].items():
            assert [entry for piece in pieces for entry in piece["logprobs"][name]] == told


def test_arms_differ_and_lossless_is_dense(server: Running) -> None:
    """By name or by setting: dense skips nothing, level 1 all it may, lossless answers what dense answers."""
    arms = {name: server.post("/v1/completions", GREEDY | {"model": f"skiplayer{name}", "max_tokens": 30})[1]
            for name in ("", "-dense", "-lossless")}  # fmt: skip
    text = {name: answer["choices"][0]["text"] for name, answer in arms.items()}
    assert text["-lossless"] == text["-dense"] != text[""]
    assert [arms[name]["skip"]["mode"] for name in arms] == ["skip", "dense", "lossless"]
    assert arms["-dense"]["skip"]["skip_rate"] == 0
    rates = [server.post("/v1/completions", GREEDY | {"skip_level": level})[1]["skip"]["skip_rate"]
             for level in (0, 0.5, 1)]  # fmt: skip
    assert rates[0] == 0 < rates[1] < rates[2]
    threshold = server.post("/v1/completions", GREEDY | {"skip_threshold": 0, "max_tokens": 30})[1]
    assert threshold["choices"][0]["text"] == text["-dense"]


def test_skipped_layers_are_told_per_token(server: Running) -> None:
    """On demand, one list per token, of routed layers only."""
    _, answer = server.post("/v1/completions", GREEDY | {"skip_details": True})
    (choice,) = answer["choices"]
    assert len(choice["skipped_layers"]) == answer["usage"]["completion_tokens"]
    assert {layer for layers in choice["skipped_layers"] for layer in layers} <= {1, 2, 3, 4}
    assert any(choice["skipped_layers"])


def test_chat_goes_through_the_template(server: Running, served: Served) -> None:
    """A conversation is the completion of what the template makes of it; top_logprobs have bytes."""
    messages = [
        {"role": "developer", "content": "short"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    body = {"messages": messages, "max_completion_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    _, chat = server.post("/v1/chat/completions", body)
    _, plain = server.post(
        "/v1/completions", GREEDY | {"prompt": "system: short\nuser: hi\nassistant:", "max_tokens": 6}
    )
    told = chat["choices"][0]
    assert told["message"] == {"role": "assistant", "content": plain["choices"][0]["text"], "refusal": None}
    assert all(len(entry["top_logprobs"]) == 2 for entry in told["logprobs"]["content"])
    joined = bytes(byte for entry in told["logprobs"]["content"] for byte in entry["bytes"])
    assert joined.decode("utf-8", "replace").startswith(told["message"]["content"][:1])
    first, *_ = server.events("/v1/chat/completions", body)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_several_prompts_are_several_choices(server: Running, served: Served) -> None:
    """Texts or token ids, in their order, each as if it were alone."""
    alone = [server.post("/v1/completions", GREEDY | {"prompt": prompt})[1]["choices"][0]["text"] for prompt in PROMPTS]
    ids = [served.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    for prompt in (list(PROMPTS), ids):
        _, answer = server.post("/v1/completions", GREEDY | {"prompt": prompt})
        assert [choice["text"] for choice in answer["choices"]] == alone
    events = server.events("/v1/completions", GREEDY | {"prompt": list(PROMPTS)})
    joined = [""] * len(PROMPTS)
    for event in events[:-1]:
        for choice in event["choices"]:
            joined[choice["index"]] += choice["text"]
    assert joined == alone


def test_echo_scores_a_text(server: Running, served: Served) -> None:
    """max_tokens 0 with echo: the prompt's own log probabilities, as evaluation harnesses ask for them."""
    _, answer = server.post("/v1/completions", GREEDY | {"max_tokens": 0, "echo": True, "logprobs": 1})
    (choice,) = answer["choices"]
    ids = served.tokenizer(GREEDY["prompt"])["input_ids"]
    assert choice["text"] == GREEDY["prompt"]
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids)
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"][0] == 0
    assert answer["usage"]["completion_tokens"] == 0


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "model": ({"model": "gpt-5"}, 404),
    "too long a prompt": ({"prompt": "word " * 400}, 400),
    "no answer": ({"max_tokens": 0}, 400),
    "two thresholds": ({"skip_level": 0.5, "skip_threshold": 0.5}, 400),
    "unknown id": ({"prompt": [100_000]}, 400),
    "empty": ({"prompt": []}, 400),
    "10,000 stop strings": ({"stop": [f"stop {i}" for i in range(10_000)]}, 400),
    "too long a body": ({"prompt": "x" * (1 << 18)}, 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_openai_errors(server: Running, name: str) -> None:
    """The status, a message, and the server goes on."""
    more, status = REFUSED[name]
    got, answer = server.post("/v1/completions", GREEDY | more)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert server.post("/v1/completions", GREEDY)[0] == 200


def test_an_answer_ends_at_the_servers_limit(server: Running) -> None:
    """Whoever asks for more than the server writes gets what it writes, and is told so."""
    _, answer = server.post("/v1/completions", GREEDY | {"max_tokens": 16384, "ignore_eos": True})
    assert answer["usage"]["completion_tokens"] == CONFIG.max_tokens
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("status", [413, 415, 401])
def test_a_refused_body_is_read_so_that_the_refusal_arrives(served: Served, status: int) -> None:
    """A client that sends on for megabytes gets its answer, not a reset."""
    kind = "text/plain" if status == 415 else "application/json"
    with running(served, CONFIG, "key") as server:
        key = {} if status == 401 else {"Authorization": "Bearer key"}
        body = b" " * ((1 << 16) if status == 415 else (3 << 20))
        for _ in range(3):
            assert server.send("POST", "/v1/completions", body, {"Content-Type": kind} | key)[0] == status


def test_paths_methods_and_content_types(server: Running) -> None:
    """404, 405 and 415 have the same form; a body that a web page may send unasked is not read."""
    assert server.send("GET", "/nowhere")[0] == 404
    status, answer = server.send("GET", "/v1/completions")
    assert (status, answer["error"]["type"]) == (405, "invalid_request_error")
    status, answer = server.send("POST", "/v1/completions", json.dumps(GREEDY).encode(), {"Content-Type": "text/plain"})
    assert status == 415


def test_other_hosts_are_refused(server: Running) -> None:
    """A name that was pointed at this machine is none of ours; headers forbid framing and guessing."""
    assert server.send("GET", "/v1/models", None, {"Host": "evil.example"})[0] == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert server.send("GET", "/healthz", None, {"Host": host})[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/demo")
    headers = dict(connection.getresponse().getheaders())
    connection.close()
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_a_key_is_asked_for_everywhere_but_in_health(served: Served) -> None:
    """Missing or wrong is 401; right passes. The page itself tells nothing and needs none."""
    with running(served, CONFIG, "s3cret") as server:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/demo/about"):
            assert server.send("GET", path)[0] == 401, path
            assert server.send("GET", path, None, {"Authorization": "Bearer s3cre"})[0] == 401, path
            assert server.send("GET", path, None, {"Authorization": "Bearer s3cret"})[0] == 200, path
        assert server.send("GET", "/healthz")[0] == 200
        assert server.send("GET", "/demo")[0] == 200
        assert server.post("/v1/completions", GREEDY)[0] == 401
        assert server.post("/v1/completions", GREEDY, {"Authorization": "Bearer s3cret"})[0] == 200


def test_a_public_address_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the environment variable the server does not start there; on loopback it does."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ConfigError, match=KEY_VARIABLE):
            api_key(ServeConfig(host=host))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert api_key(ServeConfig(host=host)) is None
    monkeypatch.setenv(KEY_VARIABLE, "k")
    assert api_key(ServeConfig(host="0.0.0.0")) == "k"


def test_metrics_count(served: Served) -> None:
    """Tokens, outcomes, times and rates of what ran, in Prometheus' format."""
    with running(served, CONFIG) as server:
        server.post("/v1/completions", GREEDY | {"ignore_eos": True})
        server.post("/v1/completions", GREEDY | {"model": "skiplayer-lossless", "ignore_eos": True})
        server.wait_idle()
        _, text = server.send("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['skip_poc_requests_total{outcome="ok"}'] == "2"
    assert values["skip_poc_generated_tokens_total"] == "16"
    assert values["skip_poc_ttft_seconds_count"] == values["skip_poc_tpot_seconds_count"] == "2"
    assert values['skip_poc_ttft_seconds_bucket{le="+Inf"}'] == "2"
    assert 0 < float(values["skip_poc_skip_rate"]) < 1
    drafted = [float(values[f'skip_poc_draft_tokens_total{{outcome="{o}"}}']) for o in ("accepted", "rejected")]
    assert sum(drafted) > 0


def test_a_client_who_leaves_frees_the_slot(served: Served) -> None:
    """In the middle of a stream, or waiting for a whole answer: the answer is given up."""
    with running(served, dataclasses.replace(CONFIG, slots=1)) as server:
        for streams in (True, False):
            body = json.dumps({"prompt": "To", "max_tokens": 100, "ignore_eos": True, "stream": streams}).encode()
            left = socket.create_connection(("127.0.0.1", server.port))
            left.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
            until = time.monotonic() + 30
            while not server.scheduler.active and time.monotonic() < until:
                time.sleep(0.001)
            left.close()
            server.wait_idle()
        assert server.scheduler.metrics.value("requests_total", outcome="cancelled") == 2
        assert server.post("/v1/completions", GREEDY)[0] == 200
