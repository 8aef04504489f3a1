"""How long a PoC will take and what disk it needs, told before it starts. Rough: a factor of two either way.

**Formula**: time = 2 * parameters * token passes / speed of this machine, where a forward pass of a token counts 1 and
a training step 3 per token; disk = 3 models + 3 times the text + 0.5 GB for Prefect, MLflow and caches.
**Source**: 2 FLOPs per parameter and token for a forward pass, twice that for a backward pass (Kaplan et al. 2020,
arXiv:2001.08361); the sample's stages on two cores (`tests/benchmarks/history/`) fit the speed of a plain float32
matrix product within that factor.
"""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skipmodel.config import ModelConfig

ITEM_TOKENS = 64
"""Length of one question with one of its four choices. [tokens]"""
N_CHOICES = 4
LAYERS = 30
"""Layers of a small model, for the stages that try every layer in turn."""
GPU_FLOPS = 5e12
"""What a small model reaches on a data-centre GPU, where starting kernels takes longer than running them; with it the
profiles standard and full take what `flows/profiles.yaml` says. [FLOP/s]"""
_SIZE = 1024


@dataclass(frozen=True)
class Estimate:
    """What a run will take, without the reading of the documents."""

    hours: float | None
    """None where the size of the base model is not known. [h]"""
    disk_gb: float | None
    """[10^9 bytes]"""


def token_passes(config: ModelConfig) -> float:
    """Return the forward passes of tokens through the whole model that all stages make together."""
    dense, skip, sweep, insight = config.dense_tune, config.skip_tune, config.sweep, config.insight
    trained = dense.steps * dense.batch_blocks * 3 + skip.steps * skip.batch_blocks * 4  # the fourth is the teacher's
    calibrated = config.calibrate.n_tokens * (2 + config.calibrate.refits)
    calibrated += config.calibrate.damage_tokens * LAYERS // 2 + config.calibrate.level_tokens * 2
    points = len(sweep.target_skip_rates) + 1
    swept = points * (sweep.validation_tokens + sweep.validation_items * N_CHOICES * ITEM_TOKENS)
    confirmed = 2 * (sweep.test_tokens + sweep.test_items * N_CHOICES * ITEM_TOKENS)
    looked_at = insight.blocks * insight.block_tokens * (LAYERS + 3 * insight.draws) + insight.pairs * 64
    return float(trained * config.block_tokens + calibrated + swept + sweep.calibration_tokens + confirmed + looked_at)


def estimate(config: ModelConfig, n_parameters: int | None, flops: float, text_bytes: float) -> Estimate:
    """Return time and disk of a run.

    Args:
        config: The model part of the settings.
        n_parameters: Of the base model; None if unknown.
        flops: Speed of this machine. [FLOP/s]
        text_bytes: Size of the text. [bytes]
    """
    if n_parameters is None:
        return Estimate(None, None)
    bytes_each = 4 if config.base.dtype == "float32" else 2
    disk = 3 * n_parameters * bytes_each + 3 * text_bytes + 5e8
    return Estimate(2 * n_parameters * token_passes(config) / flops / 3600, disk / 1e9)


def machine_flops(cuda: bool) -> float:
    """Return the speed of this machine in FLOP/s: measured in a moment on a CPU, a typical one for a GPU."""
    if cuda:
        return GPU_FLOPS
    matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * _SIZE**3 / fastest


def n_parameters(source: str) -> int | None:
    """Return the number of weights of a base model on this machine, or None: nothing is loaded or fetched.

    Args:
        source: ``package:NAME``, a model folder, or a hub id, of which nothing is known here.
    """
    if source.startswith("package:"):
        from gguf import GGUFReader

        try:
            files = importlib.metadata.files(source.removeprefix("package:")) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
        return sum(int(tensor.n_elements) for tensor in GGUFReader(paths[0]).tensors) if paths else None
    from safetensors import safe_open

    n_weights = 0
    for path in Path(source).glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            n_weights += sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    return n_weights or None
