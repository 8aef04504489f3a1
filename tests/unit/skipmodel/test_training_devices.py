"""Two processes on loopback train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("two_devices.py")
pytestmark = pytest.mark.slow


def _train(folder: Path, n_processes: int, case: dict[str, Any]) -> None:
    folder.mkdir()
    launcher = [] if n_processes == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={n_processes}",
                                            "--master_addr=127.0.0.1", "--master_port=0",
                                            "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo",
                    "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    done = subprocess.run([sys.executable, *launcher, str(SCRIPT), str(folder), json.dumps(case)], cwd=ROOT,
                          env=environment, capture_output=True, text=True, timeout=280, check=False)  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "case",
    [
        {"model": {}, "tune": {}},
        {"model": {"unit": "sublayers", "path": "adapter", "router": "bottleneck"},
         "tune": {"lora_rank": 2, "accumulate": 2, "gradient_checkpointing": True}},
    ],
    ids=["default", "everything"],
)  # fmt: skip
def test_two_processes_end_where_one_does(case: dict[str, Any], tmp_path: Path) -> None:
    """With padding, noise, critical weights, LoRA and parts: both ranks equal, and equal to one process within 1e-5."""
    _train(tmp_path / "one", 1, case)
    _train(tmp_path / "two", 2, case)
    one = load_file(tmp_path / "one" / "rank-0.safetensors")
    first, second = (load_file(tmp_path / "two" / f"rank-{rank}.safetensors") for rank in (0, 1))
    log = json.loads((tmp_path / "one" / "log-0.json").read_text(encoding="utf-8"))
    logs = [json.loads((tmp_path / "two" / f"log-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]

    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-4)
    assert logs[0] == logs[1]
    for row, row_two in zip(log, logs[0], strict=True):
        assert row_two == pytest.approx(row, abs=1e-4)
    assert [path.name for path in (tmp_path / "two" / "checkpoints").iterdir()] == ["step-000002.safetensors"]


def test_blocks_must_go_round(tmp_path: Path) -> None:
    """A step's blocks that cannot be spread evenly are refused in every process, before any waits for another."""
    _train(tmp_path / "two", 2, {"model": {}, "tune": {"batch_blocks": 3}})
    for rank in (0, 1):
        text = (tmp_path / "two" / f"error-{rank}.txt").read_text(encoding="utf-8")

        assert text.startswith("ConfigError: model.skip_tune.batch_blocks must be a multiple of accumulate times")
        assert text.endswith("1 * 2, got 3")
