"""Records that this package reads: plain frozen dataclasses, one JSON object each.

They are the only thing shared with the code that runs models. A record refuses unknown keys, wrong types and
impossible counts, because a silently dropped field would change a verdict.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import date
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from kpis.errors import RecordError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """Base of all records: strict reading from JSON and writing to it."""

    @classmethod
    def from_json(cls: type[R], data: dict[str, Any]) -> R:
        """Build the record from a parsed JSON object.

        Raises:
            RecordError: when a key is unknown or missing, or a value has the wrong type.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise RecordError(f"{cls.__name__}: unknown keys {unknown}; expected only {sorted(known)}")
        required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        missing = sorted(set(required) - set(data))
        if missing:
            raise RecordError(f"{cls.__name__}: missing keys {missing}; write the record with this version")
        hints = get_type_hints(cls)
        return cls(**{key: _convert(value, hints[key], f"{cls.__name__}.{key}") for key, value in data.items()})

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types; tuples become lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check one value against its annotation; integers may stand for floats, nothing else is converted."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        good = value in args
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
        good = False
    elif type(None) in args:
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _convert(value, inner, where)
    elif isinstance(hint, type) and issubclass(hint, Record):
        if isinstance(value, dict):
            return hint.from_json(value)
        good = isinstance(value, hint)
    elif hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        value = float(value) if good else value
    elif hint is date:
        good = type(value) is date  # a datetime is a date to Python, but not a price date
    elif hint is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, hint)
    if not good:
        raise RecordError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
    return value


@dataclass(frozen=True)
class ItemPair(Record):
    """One question answered by the dense and by the skip model."""

    item_id: str
    cluster: str
    """Items of one cluster share a source (a table, a document) and are resampled together."""
    slice: str
    """Group in which a loss must not hide (a language, a product, a kind of question)."""
    dense_correct: bool
    skip_correct: bool
    same_answer: bool
    must_pass: bool
    language: str


@dataclass(frozen=True)
class ScorePair(Record):
    """One generated answer of each model, graded between 0 (wrong) and 1 (right); the texts stay outside.

    `metric` says how it was graded, such as `exact_match` or `char_f1`; pairs of one comparison share it.
    """

    item_id: str
    cluster: str
    slice: str
    metric: str
    dense_score: float
    skip_score: float
    same_answer: bool

    def __post_init__(self) -> None:
        """Refuse grades outside the scale: a percentage among fractions would decide the mean alone."""
        for name in ("dense_score", "skip_score"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecordError(
                    f"ScorePair {self.item_id}: expected {name} within [0, 1], got {getattr(self, name)}; "
                    "grade with kpis.answers, or divide percentages by 100"
                )


@dataclass(frozen=True)
class DocumentPair(Record):
    """One document scored by the dense and by the skip model, teacher-forced.

    `nll_*` are summed nats over `n_tokens`; `*_executed` and `*_positions` count (token, routed layer) pairs.
    """

    document_id: str
    n_tokens: int
    n_bytes: int
    nll_dense: float
    nll_skip: float
    n_same_top1: int
    n_critical: int
    n_over_skipped: int
    n_critical_executed: int
    n_critical_positions: int
    n_other_executed: int
    n_other_positions: int

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if self.n_tokens <= 0 or self.n_bytes <= 0:
            raise RecordError(
                f"DocumentPair {self.document_id}: expected n_tokens and n_bytes above 0, "
                f"got {self.n_tokens} and {self.n_bytes}; leave empty documents out"
            )
        if not (math.isfinite(self.nll_dense) and math.isfinite(self.nll_skip)):
            raise RecordError(f"DocumentPair {self.document_id}: nll must be finite; the scoring run is broken")
        for part, whole in (
            ("n_same_top1", "n_tokens"),
            ("n_critical", "n_tokens"),
            ("n_over_skipped", "n_critical"),
            ("n_critical_executed", "n_critical_positions"),
            ("n_other_executed", "n_other_positions"),
        ):
            if not 0 <= getattr(self, part) <= getattr(self, whole):
                raise RecordError(
                    f"DocumentPair {self.document_id}: expected 0 <= {part} <= {whole}, "
                    f"got {getattr(self, part)} and {getattr(self, whole)}"
                )


@dataclass(frozen=True)
class TimingPairs(Record):
    """Seconds of interleaved runs: `dense_s[i]` and `skip_s[i]` were measured back to back.

    Decode and request: `decode` holds seconds per output token, `prefill` seconds per call, `request`
    seconds for one whole request.
    """

    phase: Literal["decode", "prefill", "request"]
    batch: int
    dense_s: tuple[float, ...]
    skip_s: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse unpaired or impossible times."""
        if len(self.dense_s) != len(self.skip_s) or not self.dense_s:
            raise RecordError(
                f"TimingPairs {self.phase}: expected as many skip as dense times and at least one, "
                f"got {len(self.skip_s)} and {len(self.dense_s)}"
            )
        if self.batch < 1 or min(*self.dense_s, *self.skip_s) <= 0:
            raise RecordError(f"TimingPairs {self.phase}: batch and every time must be above 0")


@dataclass(frozen=True)
class QualityBounds(Record):
    """One-sided 95 % bounds (level 1 - alpha) behind the quality gates; see `kpis.quality.bounds`."""

    delta_low: float | None
    delta_high: float | None
    flip_low: float | None
    flip_high: float | None
    harmful_low: float | None
    harmful_high: float | None
    agreement_low: float | None
    agreement_high: float | None
    over_skip_low: float | None
    over_skip_high: float | None
    worst_slice_delta: float | None
    worst_slice_low: float | None
    worst_slice_high: float | None
    worst_slice_n: int | None


@dataclass(frozen=True)
class Evidence(Record):
    """Facts about the run on which gate D1 and the functional-check rule rest."""

    bounds: QualityBounds | None
    """None exactly when no threshold was chosen."""
    functional_check: bool
    """CPU or quick run: everything is shown, nothing counts as proof."""
    hardware_matches_target: bool
    test_openings: int
    responses_at_target_load: bool = False
    responses_on_other_device: bool = False
    """The load test was made on another device than the run: it shows nothing, and refutes nothing."""


@dataclass(frozen=True)
class VerdictContext(Record):
    """What the verdict needs beside the gates."""

    functional_check: bool
    threshold_chosen: bool
    target_device_name: str = ""
    test_openings: int = 1
    max_test_openings: int = 1
    price_age_days: int = 0
    price_limit_days: int = 90
