"""Settings of the comparison with every honest control; no part of the registered plan of a PoC run."""

from __future__ import annotations

from dataclasses import dataclass

from skipmodel.errors import ConfigError

OWN = "skiplayer"
REFERENCES = ("base_untuned", "dense_tuned", "dense_continued", "int8")
"""Nothing is skipped: what the base, tuning, more of it, and rounding the weights bring or cost."""
DERIVED = ("skiplayer_guards_off", "all_executed", "random_mask")
"""The weights of `skiplayer`, routed otherwise."""
DROPPED = ("static_path", "static_identity", "truncated")
"""Every token skips the same layers, and the rest is healed."""
RIVALS = ("mixture_of_depths", "early_exit", "linear_router")
"""Other learned routings."""
ABLATIONS = (
    "path_identity", "path_adapter", "router_bottleneck", "kv_drop", "unit_attention", "unit_ffn", "unit_sublayers",
    "lora_off", "lora_on",
)  # fmt: skip
"""The settings' own recipe with one choice changed; those that change nothing are left out."""
METHODS = (*REFERENCES, OWN, "skiplayer_closed_form", *DERIVED, *DROPPED, *RIVALS, *ABLATIONS)
WITHOUT_CHANCE = ("base_untuned", "dense_tuned", "int8", "skiplayer_closed_form")
"""Methods that no seed changes."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared, at which skip rates and with how much training."""

    methods: tuple[str, ...] = METHODS
    """Methods to train and judge, of `METHODS`."""
    skip_rates: tuple[float, ...] = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
    """Shares of all layer executions to skip."""
    seeds: int = 3
    """Trainings of each method; they differ in noise, LoRA matrices and the order of the training blocks."""
    ablation_seeds: int = 1
    """Trainings of each ablation; never more than `seeds`."""
    steps: int | None = None
    """Optimiser steps of every training; None takes model.skip_tune.steps."""
    batch_blocks: int | None = None
    """Blocks in one step; None takes model.skip_tune.batch_blocks."""
    heal_per_rate: bool = False
    """Train dropped layers apart for every number of them: a stronger rival, at that many times the cost."""
    rival_lora_rank: int = 16
    """Where the settings leave the base frozen: rank of the LoRA matrices of rivals whose skipped tokens stay
    unchanged, which have little or nothing else to learn with, and of the ablation `lora_on`."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown or not self.methods:
            raise ConfigError(
                f"compare.methods: expected some of {', '.join(METHODS)}; got {', '.join(unknown) or 'none'}"
            )
        rates = self.skip_rates
        if not rates or list(rates) != sorted(set(rates)) or not all(0.0 < rate < 1.0 for rate in rates):
            raise ConfigError(f"compare.skip_rates must be rising, within (0, 1) and at least one, got {rates}")
        for name, value, least in (
            ("seeds", self.seeds, 1), ("ablation_seeds", self.ablation_seeds, 1), ("steps", self.steps, 0),
            ("batch_blocks", self.batch_blocks, 1), ("rival_lora_rank", self.rival_lora_rank, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                raise ConfigError(f"compare.{name} must be at least {least}, got {value}")

    def seeds_of(self, method: str) -> int:
        """Return how often a method is trained."""
        if method in WITHOUT_CHANCE:
            return 1
        return min(self.ablation_seeds, self.seeds) if method in ABLATIONS else self.seeds
