"""The commands: what is told before a model is loaded, the engagement rule, and the lossless measurement."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from skipmodel import __main__ as command_line
from skipmodel.engine.engagement import Engagement, PhaseCost
from skipmodel.errors import ConfigError
from skipmodel.gate import threshold_to_logit
from skipmodel.serve.config import KEY_VARIABLE, ServeConfig
from skipmodel.serve.lossless_bench import break_even_acceptance, measure
from skipmodel.serve.served import Served, open_rows, open_served
from tests.unit.skipmodel.serve.helpers import make_model, make_served

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = make_model(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_taken_port_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """One message, exit code 2, and the folder was not even looked at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command_line.main(["serve", "--model", "nowhere", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_a_public_host_without_a_key_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the environment variable."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert command_line.main(["serve", "--model", "nowhere", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert KEY_VARIABLE in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(checkpoint: Path, number: signal.Signals) -> None:
    """It tells its address, answers, measures the rule at the start, and ends with code 0 on the signal."""
    command = [sys.executable, "-m", "skipmodel", "serve", "--model", str(checkpoint), "--port", "0", "--context", "64"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    try:
        assert process.stderr is not None
        address = next(line for line in process.stderr if line.startswith("http://")).split()[0]
        with urllib.request.urlopen(address + "/models", timeout=60) as answer:
            assert b"skiplayer" in answer.read()
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert out == '{"requests": 0.0}\n'


def test_a_checkpoint_is_opened_with_its_rule_and_guards(checkpoint: Path) -> None:
    """Threshold and level by argument, the rule measured, a context beyond the model's positions refused."""
    config = ServeConfig(context=64)
    opened = open_served(checkpoint, config, threshold=0.3, level=None)
    assert opened.threshold_logit == pytest.approx(threshold_to_logit(0.3))
    assert opened.rule is not None
    assert {(cost.phase, cost.batch) for cost in opened.rule.costs} >= {("decode", 1), ("prefill", 1)}
    plain = dataclasses.replace(config, use_rule=False)
    assert open_served(checkpoint, plain, threshold=None, level=1.0).threshold_logit == math.inf
    with pytest.raises(ConfigError, match="positions of the model"):
        open_served(checkpoint, dataclasses.replace(config, context=1 << 20), threshold=None, level=None)


def rule(decode_s: float, prefill_s: float) -> Engagement:
    """Return a rule of a machine on which a routed pass takes so long, a dense one 1 s."""
    cells = [PhaseCost("decode", 1, 64, 1.0, 1.0, decode_s, 0.3), PhaseCost("prefill", 1, 64, 1.0, 1.0, prefill_s, 0.3)]
    return Engagement({}, "float32", "key", tuple(cells))


def test_the_rule_decides_per_phase_and_request(served: Served) -> None:
    """Where skipping is slower the request runs densely; the same request is always decided alike."""
    for decode_s, prefill_s in ((0.5, 2.0), (2.0, 0.5), (0.5, 0.5), (2.0, 2.0)):
        ruled = dataclasses.replace(served, rule=rule(decode_s, prefill_s))
        reads, writes = ruled.engaged(0.5, 50, 4)
        assert reads == (0.5 if prefill_s < 1 else -math.inf)
        assert writes == (0.5 if decode_s < 1 else -math.inf)
    assert served.engaged(0.5, 50, 4) == (0.5, 0.5)
    assert dataclasses.replace(served, rule=rule(0.1, 0.1)).engaged(-math.inf, 50, 4) == (-math.inf, -math.inf)
    rates = [served.skip_rate(logit) for logit in (-math.inf, -3.0, 0.0, 3.0, math.inf)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(4 / 6)


def test_rows_are_chosen_by_slots(served: Served) -> None:
    """Lanes up to four slots on a CPU, products of several rows beyond."""
    assert type(open_rows(served.engine, ServeConfig(slots=4))).__name__ == "LanePass"
    assert type(open_rows(served.engine, ServeConfig(slots=5))).__name__ == "RowPass"
    assert type(open_rows(served.engine, ServeConfig(slots=64, batching="lanes"))).__name__ == "LanePass"


@pytest.mark.parametrize("batching", ["lanes", "rows"])
def test_lossless_is_measured_against_dense(served: Served, batching: str) -> None:
    """A row per number of drafted tokens and one for adapting; the answers were checked to be equal."""
    rows = measure(served.engine, [[5, 9, 14], [40, 41, 42]], -0.6, (1, 3), 10, batching)
    assert [row["draft_tokens"] for row in rows] == [1, 3, "adapts"]
    for row in rows:
        assert 0 <= row["acceptance"] <= 1
        assert row["tokens_per_pass"] >= 1
        assert row["speedup_range"][0] <= row["speedup"] <= row["speedup_range"][1]


def test_break_even_acceptance_solves_its_formula() -> None:
    """All right is the most a draft can be; no cost needs no acceptance."""
    found = break_even_acceptance(3, 2.0)
    assert found is not None
    assert (1 - found**4) / (1 - found) == pytest.approx(2.0, abs=1e-6)
    assert break_even_acceptance(2, 3.01) is None
    assert break_even_acceptance(2, 0.9) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("field", "value"), [("slots", 0), ("context", 0), ("port", 70000), ("read_timeout_s", 0.0), ("draft_tokens", 0)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=f"serve.{field}"):
        dataclasses.replace(ServeConfig(), **{field: value})
