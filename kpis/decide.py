"""The decision: which setting was chosen, how every gate stands, and what follows.

The rule is an intersection-union test: every must-gate is required at one-sided 5 %, which keeps the risk of
a false Go at 5 % or less without any correction. Cost gates are model-based probabilities.

    Go               Q1 Q2 Q4 Q6 S1 S3, C3 or C4, and D1 pass; Q3 and Q7 do not object
    Conditional Go   Q1 Q4 Q6 pass, no must-gate is refuted, but something else is not shown yet
    No-Go            a must-gate is refuted, or no setting passed on validation
    No-Go (insufficient evidence)   Q1 or Q4 is neither shown nor refuted, or speed was never measured

A rival that is shown to be the better choice (`kpis.rivals`) makes a Go conditional and is named among the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kpis.actions import next_actions
from kpis.errors import RecordError
from kpis.gate import KINDS
from kpis.gates_business import cost_gates, evidence_gate, speed_gates
from kpis.gates_quality import quality_gates
from kpis.limits import GateLimits
from kpis.quality import sweep_passes
from kpis.records import Evidence, VerdictContext
from kpis.stats import fixed_sequence

REFUTABLE = ("Q1", "Q2", "Q4", "Q6", "S1", "S3")
"""Must-gates whose refutation alone is a No-Go; the pair C3/C4 is judged together, D1 never refutes."""
DECISIVE = ("Q1", "Q4")
"""Without these no kind of Go is possible."""
GUARDS = ("Q3", "Q7")
"""Not must-gates, but a Go with an objection from them is only conditional."""


def choose(rows: Sequence[Mapping[str, Any]], limits: GateLimits) -> dict[str, Any]:
    """The `choice` object: the last setting before the first failure, from conservative to aggressive.

    Rows are taken in the order of their threshold (fixed before measuring: a higher threshold skips more).
    Rows that skip nothing are the reference and are not candidates.

    Args:
        rows: `sweep` rows of result.json.
        limits: registered limits.
    """
    candidates = sorted((row for row in rows if row["skip_rate"] > 0), key=lambda row: float(row["threshold"]))
    position = fixed_sequence(candidates, lambda row: sweep_passes(row, limits)[0])
    choice: dict[str, Any] = {"sweep_index": None, "threshold": None, "rule": "fixed_sequence"}
    if not candidates:
        return {**choice, "reason": "no_setting_skips"}
    if position is None:
        return {**choice, "reason": "first_setting_fails"}
    row = candidates[position]
    whole = position == len(candidates) - 1
    choice.update(sweep_index=row["index"], threshold=row["threshold"])
    return {**choice, "reason": "whole_sequence_passes" if whole else "last_pass_before_first_fail"}


def gates(
    confirmation: Mapping[str, Any] | None,
    speed_headline: Mapping[str, Any] | None,
    responses: Mapping[str, Any] | None,
    cost: Mapping[str, Any] | None,
    evidence: Evidence,
    limits: GateLimits,
) -> list[dict[str, Any]]:
    """Every gate of the catalog in its order, as rows of result.json.

    Args:
        confirmation: object of `quality.confirmation`, None when no threshold was chosen.
        speed_headline: the `speed` row with `is_headline`, None when not measured.
        responses: object of `speed.responses`, None when not measured.
        cost: object of `cost.cost`, None when not computed.
        evidence: facts about the run, with the bounds that belong to the confirmation.
        limits: registered limits.

    Raises:
        RecordError: when a confirmation comes without its bounds.
    """
    return [
        *quality_gates(confirmation, evidence.bounds, limits),
        *speed_gates(speed_headline, responses, cost, evidence, limits),
        *cost_gates(cost, evidence, limits),
        evidence_gate(confirmation, speed_headline, cost, evidence, limits),
    ]


def verdict(
    rows: Sequence[Mapping[str, Any]], context: VerdictContext, rivals: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The `verdict` object of result.json.

    Args:
        rows: all gates, as made by `gates`.
        context: facts about the run that are no gate.
        rivals: rows of `kpis.rivals.rivals`. One that is better is named; it improves no verdict.

    Raises:
        RecordError: when a gate is missing.
    """
    by_id = {row["id"]: row for row in rows}
    if set(by_id) != set(KINDS):
        raise RecordError(f"verdict: expected the gates {list(KINDS)}, got {list(by_id)}")
    unexplained = [row["id"] for row in rows if row["state"] != "pass" and not row["reason"]]
    if unexplained:
        raise RecordError(f"verdict: expected a reason for every gate that does not pass, got none for {unexplained}")
    code, deciding = _decide(by_id, context)
    reasons = _unique([reason for row in deciding if (reason := row["reason"])])
    if code == "no_go" and not context.threshold_chosen:
        reasons = _unique(["no_threshold_passes", *reasons])
    if context.functional_check and code == "conditional_go":
        reasons = _unique(["functional_check", *reasons])
    better = [f"{row['name']}_better" for row in rivals if row["state"] == "better"]
    if code in ("go", "conditional_go") and better:
        code, reasons = "conditional_go", _unique([*reasons, *better])
    if code == "go":
        reasons = ["all_gates_pass"]
    return {
        "code": code,
        "main_reason": reasons[0],
        "reasons": reasons,
        "evidence": _evidence_state(code, by_id, context),
        "next_actions": next_actions(code, reasons, by_id, context),
        "banner": "functional_check" if context.functional_check else None,
    }


def _decide(by_id: Mapping[str, Mapping[str, Any]], context: VerdictContext) -> tuple[str, list[Mapping[str, Any]]]:
    """Verdict code and the gates that decided it."""
    if not context.threshold_chosen:
        return "no_go", []
    cost_state, cost_rows = cost_group(by_id["C3"], by_id["C4"])
    refuted = [by_id[name] for name in REFUTABLE if by_id[name]["state"] == "fail"]
    if cost_state == "fail":
        refuted += cost_rows
    if refuted:
        return "no_go", refuted
    undecided = [by_id[name] for name in DECISIVE if by_id[name]["state"] != "pass"]
    if by_id["S1"]["state"] == "not_measured":
        undecided.append(by_id["S1"])
    if undecided:
        return "no_go_insufficient_evidence", undecided
    open_points = [by_id[name] for name in ("Q2", "S1", "S3") if by_id[name]["state"] != "pass"]
    open_points += [by_id["Q6"]] if by_id["Q6"]["state"] not in ("pass", "info") else []
    open_points += [by_id[name] for name in GUARDS if by_id[name]["state"] not in ("pass", "info")]
    if cost_state != "pass":
        open_points += cost_rows
    if by_id["D1"]["state"] != "pass":
        open_points.insert(0, by_id["D1"])
    if open_points or context.functional_check:
        return "conditional_go", open_points
    return "go", []


def cost_group(saving: Mapping[str, Any], payback: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """State of "C3 or C4" and the gates that explain it: the better of the two."""
    rows = [saving, payback]
    for state in ("pass", "inconclusive", "fail", "not_measured"):
        matching = [row for row in rows if row["state"] == state]
        if matching:
            return state, matching
    return "info", rows


def _evidence_state(code: str, by_id: Mapping[str, Mapping[str, Any]], context: VerdictContext) -> str:
    """Whether the verdict stands on enough evidence: D1 passes, or a refutation on the target hardware."""
    if by_id["D1"]["state"] == "pass":
        return "sufficient"
    refuted = code == "no_go" and context.threshold_chosen
    on_target = by_id["D1"]["reason"] not in ("functional_check", "hardware_not_target")
    return "sufficient" if refuted and on_target else "insufficient"


def _unique(codes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(codes))
