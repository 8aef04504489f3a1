"""One gate: how a number with its bounds becomes a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kpis.codes import GATE_REASONS, GATE_STATES
from kpis.errors import KpiError


@dataclass(frozen=True)
class GateKind:
    """What is fixed about a gate: the number held against the limit, its unit, whether a Go needs it."""

    comparator: str
    unit: str
    is_must: bool


KINDS: dict[str, GateKind] = {
    "Q1": GateKind("lower_gt", "points", True),
    "Q2": GateKind("upper_le", "fraction", True),
    "Q3": GateKind("lower_ge", "fraction", False),
    "Q4": GateKind("upper_le", "fraction", True),
    "Q5": GateKind("info", "ratio", False),
    "Q6": GateKind("le", "count", True),
    "Q7": GateKind("lower_gt", "points", False),
    "S1": GateKind("lower_ge", "ratio", True),
    "S2": GateKind("info", "fraction", False),
    "S3": GateKind("le", "ratio", True),
    "S4": GateKind("ge", "per_s", False),
    "S5": GateKind("info", "ratio", False),
    "C1": GateKind("info", "jpy_per_mtok", False),
    "C2": GateKind("info", "jpy", False),
    "C3": GateKind("ge", "fraction", True),
    "C4": GateKind("le", "months", True),
    "C5": GateKind("info", "jpy", False),
    "D1": GateKind("ge", "ratio", True),
}
"""C3 and C4 stand for each other: a Go needs one of them."""


def gate(gate_id: str, state: str, reason: str | None = None, **numbers: Any) -> dict[str, Any]:
    """One row of `gates` in result.json.

    Args:
        gate_id: a key of `KINDS`.
        state: one of `codes.GATE_STATES`.
        reason: one of `codes.GATE_REASONS`, or None.
        **numbers: any of value, low, high, n, limit, required_n; absent means None.

    Raises:
        KpiError: when state or reason is not listed in codes.py, so that no report lacks its sentence.
    """
    if state not in GATE_STATES or (reason is not None and reason not in GATE_REASONS):
        raise KpiError(
            f"gate {gate_id}: expected a state and a reason listed in kpis/codes.py, got {state!r}, {reason!r}"
        )
    kind = KINDS[gate_id]
    row: dict[str, Any] = {"id": gate_id}
    row.update({name: numbers.pop(name, None) for name in ("value", "low", "high", "n", "limit")})
    row.update(comparator=kind.comparator, unit=kind.unit, state=state, is_must=kind.is_must, reason=reason)
    row["required_n"] = numbers.pop("required_n", None)
    if numbers:
        raise TypeError(f"gate {gate_id}: unexpected numbers {sorted(numbers)}")
    return row


def judge_upper(low: float | None, high: float, limit: float) -> str:
    """State of "at most": the upper bound is within the limit, or the lower bound is already above it."""
    if high <= limit:
        return "pass"
    return "fail" if low is not None and low > limit else "inconclusive"


def judge_lower(low: float, high: float | None, limit: float, strict: bool = False) -> str:
    """State of "at least" (strict: "above"): the lower bound clears the limit, or the upper bound misses it."""
    if low > limit or (low == limit and not strict):
        return "pass"
    return "fail" if high is not None and high < limit else "inconclusive"


def reason_for(state: str, refuted: str, not_shown: str) -> str | None:
    """Reason code of a state: none for pass."""
    return {"fail": refuted, "inconclusive": not_shown}.get(state)
