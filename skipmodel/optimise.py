"""What both training loops share: optimiser, schedule, checkpoints to go on from, and watching for divergence.

A checkpoint holds what training changes - trainable tensors, Adam moments, random generators, the log - and not
the frozen base. A training that goes on from one gives, on a CPU, the same result bit for bit as one that was
never interrupted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skipmodel.errors import CheckpointError, TrainingError

_WATCHED_STEPS = 5


@dataclass
class TrainingLog:
    """One row of numbers per step, and what the whole took."""

    rows: list[dict[str, float]] = field(default_factory=list)
    n_tokens: int = 0

    def mean_of(self, key: str, part: slice) -> float:
        """Mean of a column over some steps."""
        values = [row[key] for row in self.rows[part]]
        return sum(values) / len(values)


def schedule(step: int, steps: int) -> float:
    """Warm-up over the first tenth, then cosine down to a tenth of the peak."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


@dataclass
class Trainer:
    """An AdamW over named groups of parameters, with gradient clipping per group and resumable state."""

    groups: dict[str, tuple[list[nn.Parameter], float]]
    """Name -> parameters and peak learning rate."""
    steps: int
    where: str
    """What error messages call this training."""
    folder: Path | None = None
    """Where checkpoints go; None keeps none."""
    every: int = 50
    identity: str = ""
    """What the training depends on; a checkpoint of another one is not gone on from."""
    writes: bool = True
    """False on all devices but one."""
    log: TrainingLog = field(default_factory=TrainingLog)
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Further tensors that training fills, kept in checkpoints."""

    def __post_init__(self) -> None:
        self.groups = {name: group for name, group in self.groups.items() if group[0]}
        self.optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in self.groups.values()],
            betas=(0.9, 0.98), weight_decay=0.0,
        )  # fmt: skip

    def step(self, step: int, idle: Sequence[str] = ()) -> None:
        """Clip each group's gradient to norm 1 and take one step; groups named `idle` stay as they are."""
        for (name, (parameters, peak)), group in zip(self.groups.items(), self.optimiser.param_groups, strict=True):
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            if not bool(norm.isfinite()):
                raise self.error(f"step {step}: the gradient of the {name} is not a number")
            group["lr"] = 0.0 if name in idle else peak * schedule(step, self.steps)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def watch(self, step: int, key: str, limit: float) -> None:
        """Stop when a loss is not a number, or its recent mean is far above both a limit and its own best.

        Raises:
            TrainingError: Names the step and the last good checkpoint.
        """
        value = self.log.rows[-1][key]
        if not math.isfinite(value):
            raise self.error(f"step {step}: the loss became {value}")
        values = [row[key] for row in self.log.rows]
        if len(values) >= 3 * _WATCHED_STEPS:
            means = [
                sum(values[i : i + _WATCHED_STEPS]) / _WATCHED_STEPS for i in range(len(values) - _WATCHED_STEPS + 1)
            ]
            best = min(values[0], *means)  # the first step too: a training may be lost before the first mean is full
            if means[-1] > limit and means[-1] > 3 * best:
                raise self.error(f"step {step}: training diverges, {key} rose from {best:.3f} to {means[-1]:.3f}")

    def error(self, what: str) -> TrainingError:
        """Return an error that says what to do and which checkpoint is kept."""
        newest = self._newest()
        kept = "" if newest is None else f"; the last good checkpoint, {newest.name}, is kept"
        return TrainingError(f"{self.where}, {what}; lower its learning rates and run again{kept}")

    # --- checkpoints --------------------------------------------------------------------------------------

    def save(self, step: int, generator: torch.Generator) -> None:
        """Write a checkpoint after `step` steps, every so often, and remove the one before the last."""
        if self.folder is None or not self.writes or step % self.every or step == self.steps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Tensor] = {"generator": generator.get_state(), "torch": torch.get_rng_state()}
        for name, parameter in self._named():
            state[f"value/{name}"] = parameter.detach()
            for key, value in self.optimiser.state[parameter].items():
                state[f"{key}/{name}"] = value
        state |= {f"count/{name}": value for name, value in self.counts.items()}
        notes = {"identity": self.identity, "step": step, "rows": self.log.rows, "n_tokens": self.log.n_tokens}
        path = self.folder / f"step-{step:06d}.safetensors"
        partial = path.with_suffix(".partial")
        save_file({key: value.contiguous() for key, value in state.items()}, partial, {"notes": json.dumps(notes)})
        os.replace(partial, path)
        for old in self._own()[:-2]:
            old.unlink()

    def resume(self, generator: torch.Generator) -> int:
        """Take up the newest checkpoint of this training and return how many steps it has behind it; 0 without one.

        Raises:
            CheckpointError: The checkpoint's tensors do not fit this model.
        """
        path = self._newest()
        if path is None:
            return 0
        notes = _notes(path)
        state = load_file(path)
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        with torch.no_grad():
            for name, parameter in self._named():
                value = state.get(f"value/{name}")
                if value is None or value.shape != parameter.shape:
                    raise CheckpointError(
                        f"{self.where}: checkpoint {path.name} has no tensor {name} of shape {tuple(parameter.shape)}; "
                        "remove the checkpoint to train from the start"
                    )
                parameter.copy_(value)
                moments = {key: state[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                           if f"{key}/{name}" in state}  # fmt: skip
                if moments:
                    self.optimiser.state[parameter] = {
                        key: v if key == "step" else v.to(parameter.device) for key, v in moments.items()
                    }
        self.counts.update({key[6:]: value for key, value in state.items() if key.startswith("count/")})
        self.log = TrainingLog(notes["rows"], notes["n_tokens"])
        return int(notes["step"])

    def _newest(self) -> Path | None:
        found = self._own()
        return found[-1] if found else None

    def _own(self) -> list[Path]:
        """Checkpoints of this training, oldest first; those of another one in the same folder are left alone."""
        found = sorted(self.folder.glob("step-*.safetensors")) if self.folder is not None else []
        return [path for path in found if _notes(path)["identity"] == self.identity]

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"{name}.{i}", p) for name, (parameters, _) in self.groups.items() for i, p in enumerate(parameters)]


def _notes(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(json.loads((file.metadata() or {})["notes"]))
