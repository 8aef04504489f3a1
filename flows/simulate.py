"""`skip-poc simulate`: the decision rule held against simulated PoCs whose truth is known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from kpis.simulation_summary import simulate


def run_simulation(n: int, seed: int, say: Callable[[str], None], tell: Callable[[str], None]) -> dict[str, Any]:
    """Simulate, print tables for a person, and the document in one line at the end of stdout.

    Args:
        n: PoCs per scenario at a limit.
        seed: Of everything.
        say: Writes one line to stdout.
        tell: Writes one line of progress.

    Raises:
        StatisticsError: ``n`` is too small.
    """
    started = time.perf_counter()
    result = simulate(n, seed, progress=lambda text: tell(f"  {time.perf_counter() - started:6.0f} s  {text}"))
    say(text_table(result))
    say(json.dumps(result, ensure_ascii=False, allow_nan=False))
    return result


def text_table(result: dict[str, Any]) -> str:
    """Return scenarios, coverage and power as text."""
    lines = [f"{'scenario':<26}{'PoCs':>6}{'Go':>8}{'cond.':>8}{'unsure':>8}{'No-Go':>8}   gate alone passes"]
    codes = ("go", "conditional_go", "no_go_insufficient_evidence", "no_go")
    for row in result["scenarios"]:
        shares = "".join(f"{row['verdicts'].get(code, 0) / row['n']:>8.1%}" for code in codes)
        alone = (
            "" if row["gate_passed"] is None else f"   {row['gate']} {row['gate_passed']:.1%} of {row['gate_judged']}"
        )
        lines.append(f"{row['name']:<26}{row['n']:>6}{shares}{alone}")
    covered = result["coverage_by_interval"] | result["coverage_exact"]
    lines.append("")
    lines.append("95 % intervals that contain the truth: " + ", ".join(f"{k} {v:.1%}" for k, v in covered.items()))
    lines.append("")
    lines.append(f"{'power':<8}{'n':>6}{'truth':>8}{'theory':>9}{'simulated':>11}{'error':>9}")
    for row in result["power"]:
        lines.append(f"{row['gate']:<8}{row['n']:>6}{row['truth']:>8.3f}{row['theory']:>9.1%}{row['simulated']:>11.1%}"
                     f"{100 * row['error']:>+8.1f}p")  # fmt: skip
    lines.append("")
    worst, covered_share = result["false_go_scenario"], result["coverage"]
    lines.append(f"false Go {result['false_go']:.2%} ({worst}), coverage {covered_share:.2%}, "
                 f"largest power error {100 * result['power_error_max']:.2f} points")  # fmt: skip
    return "\n".join(lines)
