"""The model as it is served: engine, tokenizer, guards, thresholds, and the engagement rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipmodel.engine.engagement import Engagement
from skipmodel.engine.executor import Engine
from skipmodel.engine.lanes import LanePass
from skipmodel.engine.rows import RowPass, check_context, find_floor
from skipmodel.errors import ConfigError
from skipmodel.gate import level_to_logit, threshold_to_logit
from skipmodel.guards import ServingGuards
from skipmodel.serve.config import ServeConfig

MANY_SLOTS = 5
"""From so many slots on products of several rows are faster than lanes on a CPU (measured with 135M parameters)."""

RULE_BUDGET_S = 8.0
"""Spent on measuring the engagement rule when the server starts."""


@dataclass(frozen=True)
class Served:
    """A loaded model.

    Attributes:
        engine: Executes it.
        tokenizer: Its tokenizer, with a chat template or without.
        guards: Of the checkpoint.
        level_logits: Threshold logits of its levels; empty where none were calibrated.
        threshold_logit: Of requests that name neither level nor threshold.
        rule: Measured costs of skipping on this machine; None engages always.
    """

    engine: Engine
    tokenizer: Any
    guards: ServingGuards
    level_logits: tuple[float, ...]
    threshold_logit: float
    rule: Engagement | None = None

    def logit(self, level: float | None, threshold: float | None) -> float:
        """Return the threshold logit of a request.

        Raises:
            ConfigError: A level is asked for and the checkpoint has none.
        """
        if level is not None:
            return level_to_logit(self.level_logits, level)
        return self.threshold_logit if threshold is None else threshold_to_logit(threshold)

    def skip_rate(self, threshold_logit: float) -> float:
        """Return about which share of all layer executions skips at a threshold, by the calibrated levels.

        Without levels the rate is unknown; 0 is returned, with which the rule says dense.
        """
        if threshold_logit == -math.inf or not self.level_logits:
            return 0.0
        n_below = sum(cut <= threshold_logit for cut in self.level_logits)
        return n_below / len(self.level_logits) * len(self.engine.routed_units) / self.engine.n_layers

    def engaged(self, threshold_logit: float, n_prompt: int, batch: int) -> tuple[float, float]:
        """Return the threshold logits for prompt and answer after the rule was asked; -inf where it says dense.

        What is asked depends on the request alone: the batch is the server's, not that of the moment.
        """
        if self.rule is None or threshold_logit == -math.inf:
            return threshold_logit, threshold_logit
        rate = self.skip_rate(threshold_logit)
        reads = self.rule.engages("prefill", 1, n_prompt, rate)
        writes = self.rule.engages("decode", batch, n_prompt, rate)
        return (threshold_logit if reads else -math.inf), (threshold_logit if writes else -math.inf)


def open_served(folder: Path, config: ServeConfig, *, threshold: float | None, level: float | None) -> Served:
    """Load a checkpoint for serving.

    Args:
        folder: SkipLayer checkpoint.
        config: Of the server.
        threshold: Of requests that name none; the checkpoint's own if this and level are None.
        level: The same as a level.

    Raises:
        ConfigError: The model runs masked only, the context is too long, or it has no levels.
    """
    from skipmodel.base import default_device, load_checkpoint

    model, tokenizer = load_checkpoint(folder)
    check = getattr(model.config.text_config, "max_position_embeddings", None)
    engine = Engine(model.to(default_device()))
    check_context(engine, config.context, check)
    levels = tuple(model.config.level_logits)
    own = model.config.threshold if threshold is None else threshold
    logit = level_to_logit(levels, level) if level is not None else threshold_to_logit(own)
    rule = None
    if config.use_rule and engine.routed_units:
        from skipmodel.engine.calibration import calibrate

        lengths = (64, min(256, config.context))
        rule = calibrate(engine, batches=(1, config.slots), tokens=lengths, vocabulary=len(engine.weights.embedding),
                         budget_s=RULE_BUDGET_S)  # fmt: skip
    return Served(engine, tokenizer, ServingGuards.load(folder), levels, logit, rule)


def open_rows(engine: Engine, config: ServeConfig) -> LanePass | RowPass:
    """Return how rows are run: as configured, or what is faster for so many slots on this device.

    Raises:
        ConfigError: Lanes are asked for on a GPU.
    """
    is_cpu = engine.device.type == "cpu"
    if config.batching == "lanes" and not is_cpu:
        raise ConfigError("serve.batching: lanes run on a CPU only; use rows or auto on a GPU")
    if config.batching == "lanes" or (config.batching == "auto" and is_cpu and config.slots < MANY_SLOTS):
        return LanePass(engine)
    return RowPass(engine, find_floor(engine))
