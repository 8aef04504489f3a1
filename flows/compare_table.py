"""From the paired records of a comparison to its rows, its claims and the file of the history. Pure arithmetic.

Rates and rises are fractions: 0.02 is 2 %. Claims are computed, never asserted; one that cannot be judged is null.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kpis.quality import perplexity, ppl_rise
from kpis.records import DocumentPair
from skipmodel.config_compare import OWN

SCHEMA_VERSION = 1
RIVALS_TO_BEAT = ("static_path", "random_mask")
LEAST_CLAIMED_RATE = 0.05
RATE_TOLERANCE = 0.002
"""A rival that skips this much more than we do still counts as not skipping more: rates are measured, not set."""
REACH = 0.01
"""How far beyond the measured skip rates a rise is still read off."""
RISE_LIMITS = {0.20: 0.02, 0.30: 0.05}
"""Skip rate -> goal for the rise of perplexity."""
LEAST_CRITICAL_RECALL = 0.95
CRITICAL_MARGIN = 0.01
"""Perplexity on critical tokens may rise by this much more than overall."""
HISTORY_COLUMNS = ("method", "base", "seed", "skip_rate", "ppl", "ppl_rise", "low", "high", "critical_recall")

Row = Mapping[str, Any]


def make_row(method: str, base: str, seed: int, point: Mapping[str, Any], bootstrap_seed: int) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        method: Method.
        base: Name of the base model.
        seed: Seed of its training.
        point: What an arm kept at one skip rate: paired documents, measured rates, losses on critical tokens.
        bootstrap_seed: Seed of the document bootstrap.
    """
    documents = [DocumentPair.from_json(record) for record in point["documents"]]
    n_tokens = sum(document.n_tokens for document in documents)
    positions = sum(document.n_critical_positions for document in documents)
    executed = sum(document.n_critical_executed for document in documents)
    rise = ppl_rise(documents, bootstrap_seed)
    critical = point["critical"]
    return {
        "method": method,
        "base": base,
        "seed": seed,
        "target_skip_rate": point["target_skip_rate"],
        "skip_rate": point["skip_rate"],
        "ppl": perplexity(sum(document.nll_skip for document in documents), n_tokens),
        "ppl_rise": rise.value,
        "low": rise.low,
        "high": rise.high,
        "critical_recall": executed / positions if positions else None,
        "critical_ppl_rise": math.expm1((critical["nll_skip"] - critical["nll_dense"]) / critical["n"])
        if critical["n"] else None,
        "n_tokens": n_tokens,
        "n_documents": len(documents),
    }  # fmt: skip


def claims(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the table shows about the own method, each claim with the numbers it rests on.

    `below` - per skip rate and rival: the highest upper bound of our seeds lies below the lowest lower bound of the
    rival's seeds, each at its nearest skip rate that is not larger than ours. `rise_at` - the rise at a fixed skip
    rate, linear between measured rows of one seed, mean and worst over seeds. `critical_recall`, `critical_rise` -
    guards on, worst seed.
    """
    own = [row for row in rows if row["method"] == OWN]
    targets = sorted({row["target_skip_rate"] for row in own if row["target_skip_rate"] >= LEAST_CLAIMED_RATE - 1e-9})
    at = {target: [row for row in own if row["target_skip_rate"] == target] for target in targets}
    return {
        "below": [_below(at[target], target, rival, rows) for rival in RIVALS_TO_BEAT for target in targets],
        "rise_at": [_rise_at(rows, own, rate, limit) for rate, limit in RISE_LIMITS.items()],
        "critical_recall": [_recall(at[target], target) for target in targets],
        "critical_rise": [_critical_rise(at[target], target) for target in targets],
    }


def _below(own: Sequence[Row], target: float, rival: str, rows: Sequence[Row]) -> dict[str, Any]:
    theirs = [row for row in rows if row["method"] == rival]
    chosen = []
    for mine in own:
        for seed in sorted({row["seed"] for row in theirs}):
            near = [row for row in theirs
                    if row["seed"] == seed and row["skip_rate"] <= mine["skip_rate"] + RATE_TOLERANCE]  # fmt: skip
            if near:
                chosen.append(max(near, key=lambda row: row["skip_rate"]))
    highs, lows = [row["high"] for row in own], [row["low"] for row in chosen]
    known = bool(own and chosen) and None not in highs and None not in lows
    return {
        "rival": rival,
        "target_skip_rate": target,
        "skip_rate": min((row["skip_rate"] for row in own), default=None),
        "rival_skip_rate": max((row["skip_rate"] for row in chosen), default=None),
        "high": max(highs) if known else None,
        "rival_low": min(lows) if known else None,
        "n_seeds": len(own),
        "n_rival_seeds": len({row["seed"] for row in chosen}),
        "holds": max(highs) < min(lows) if known else None,
    }


def _rise_at(rows: Sequence[Row], own: Sequence[Row], rate: float, limit: float) -> dict[str, Any]:
    executed = {row["seed"]: row["ppl_rise"] for row in rows if row["method"] == "all_executed"}
    values: list[float] = []
    seeds = sorted({row["seed"] for row in own})
    for seed in seeds:
        points = [(row["skip_rate"], row["ppl_rise"]) for row in own if row["seed"] == seed]
        if seed in executed:
            points.append((0.0, executed[seed]))
        value = interpolate(sorted(points), rate)
        if value is not None:
            values.append(value)
    is_reached = bool(values) and len(values) == len(seeds)
    return {
        "skip_rate": rate,
        "ppl_rise": sum(values) / len(values) if is_reached else None,
        "worst": max(values) if is_reached else None,
        "limit": limit,
        "holds": max(values) <= limit if is_reached else None,
    }


def _recall(own: Sequence[Row], target: float) -> dict[str, Any]:
    found = [row["critical_recall"] for row in own]
    known = None not in found
    return {
        "target_skip_rate": target,
        "critical_recall": min(found) if known else None,
        "limit": LEAST_CRITICAL_RECALL,
        "holds": min(found) >= LEAST_CRITICAL_RECALL if known else None,
    }


def _critical_rise(own: Sequence[Row], target: float) -> dict[str, Any]:
    known = all(row["critical_ppl_rise"] is not None for row in own)
    worst = max(own, key=lambda row: row["critical_ppl_rise"] - row["ppl_rise"]) if known else None
    return {
        "target_skip_rate": target,
        "critical_ppl_rise": worst and worst["critical_ppl_rise"],
        "ppl_rise": worst and worst["ppl_rise"],
        "margin": CRITICAL_MARGIN,
        "holds": worst and worst["critical_ppl_rise"] <= worst["ppl_rise"] + CRITICAL_MARGIN,
    }


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """Return the value at x on the line through the points, which rise in x.

    A measured rate misses its target a little, so the last piece may be prolonged by `REACH`; None beyond that.
    """
    if len(points) < 2 or not points[0][0] - REACH <= x <= points[-1][0] + REACH:
        return None
    pieces = list(itertools.pairwise(points))
    (x0, y0), (x1, y1) = next((piece for piece in pieces if x <= piece[1][0]), pieces[-1])
    return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def history_document(
    compared: Mapping[str, Any], environment: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the reference document of one date and commit.

    It holds the rows of several base models: those of other bases are taken over from the document that is there.

    Args:
        compared: compare.json.
        environment: Processor, threads and versions.
        before: The document of the same date and commit, if there is one.
    """
    base = compared["base"]
    bases = {} if before is None else {name: facts for name, facts in before["bases"].items() if name != base}
    kept = [] if before is None else [row for row in before["rows"] if row["base"] != base]
    facts = {
        "environment": dict(environment),
        **{key: compared[key] for key in ("profile", "settings_sha256", "code_sha256", "settings", "steps", "tokens",
                                          "claims", "problems")},
    }  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "date": compared["date"],
        "commit": compared["git_commit"],
        "bases": {**bases, base: facts},
        "rows": [*kept, *({name: row[name] for name in HISTORY_COLUMNS} for row in compared["rows"])],
    }


def history_name(document: Mapping[str, Any]) -> str:
    """Return `compare_<date>_<commit>.json`."""
    return f"compare_{document['date']}_{(document['commit'] or 'nocommit')[:10]}.json"


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as lines for a terminal."""
    lines = [f"{'method':<22}{'seed':>5}{'skipped':>9}{'rise':>10}   {'95 % interval':<22}{'recall':>7}"]
    for row in rows:
        bounds = "" if row["low"] is None else f"{row['low']:+.2%} to {row['high']:+.2%}"
        recall = "" if row["critical_recall"] is None else f"{row['critical_recall']:.3f}"
        lines.append(f"{row['method']:<22}{row['seed']:>5}{row['skip_rate']:>9.1%}{row['ppl_rise']:>+10.2%}   "
                     f"{bounds:<22}{recall:>7}")  # fmt: skip
    return "\n".join(lines)
