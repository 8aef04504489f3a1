"""What each guard costs: the same text at the same threshold, with one guard lifted at a time.

A guard costs skip rate, what routers would have skipped without it, and buys quality, what those skips would have
done to the loss. Both are measured, by scoring again; guards overlap, so their costs do not add up. Always-run units
cannot be lifted: they have no router.

Legend: N blocks, T tokens in a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.evaluate import score_blocks, skip_rate_per_unit

ALL_ON = "none lifted"
ALL_OFF = "all lifted"


@dataclass(frozen=True)
class GuardCost:
    """One way of guarding the same text at the same threshold.

    Attributes:
        lifted: The guard left out: `critical: CLASS`, `first positions`, `margins`, or `ALL_ON` or `ALL_OFF`.
        n_tokens: Real tokens that the lifted guard bears on.
        skip_rate: Share of all layer executions skipped.
        skip_rate_cost: What the guard costs: this rate less the rate with all guards on.
        ppl_rise: Perplexity against the dense model, a fraction.
        critical_nll_rise: Loss on critical positions, the ones that hold a critical token or predict one, against
            the dense model; None without such positions. [nats/token]
    """

    lifted: str
    n_tokens: int
    skip_rate: float
    skip_rate_cost: float
    ppl_rise: float
    critical_nll_rise: float | None


def guard_costs(
    engine: AnyEngine,
    blocks: Blocks,
    routing: Routing,
    *,
    force_critical: bool,
    margins: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[GuardCost]:
    """Score text with all guards, without each of them, and with none.

    Args:
        engine: Executes the model.
        blocks: Held-out text with its critical classes.
        routing: Thresholds of the operating point.
        force_critical: Whether critical tokens are forced there.
        margins: Class margins there.
        progress: Called with passes done and total.
    """
    margins = dict(margins or {})
    real_NT = blocks.real_NT
    ways: list[tuple[str, int, Blocks, Routing, dict[str, float]]] = [(ALL_ON, 0, blocks, routing, margins)]
    for number, kind in enumerate(blocks.kinds):
        of_kind_NT = real_NT & (blocks.kind_NT == number)
        if force_critical and number > 0 and bool(of_kind_NT.any()):
            lifted = replace(blocks, kind_NT=blocks.kind_NT.masked_fill(blocks.kind_NT == number, 0))
            ways.append((f"critical: {kind}", int(of_kind_NT.sum()), lifted, routing, margins))
    free = replace(routing, force_first_positions=0)
    if routing.force_first_positions:
        n_first = int(real_NT[:, : routing.force_first_positions].sum())
        ways.append(("first positions", n_first, blocks, free, margins))
    if any(margins.values()):
        n_with = sum(int((real_NT & (blocks.kind_NT == blocks.kinds.index(kind))).sum()) for kind in margins)
        ways.append(("margins", n_with, blocks, routing, {}))
    if len(ways) > 2:
        ways.append((ALL_OFF, int(real_NT.sum()), blocks, free, {}))
    dense = score_blocks(engine, blocks, None, force_critical=False)
    progress(1, len(ways) + 1)
    rows: list[GuardCost] = []
    for done, (name, n_tokens, guarded, route, given) in enumerate(ways):
        force = force_critical and name != ALL_OFF
        scores = score_blocks(engine, guarded, route, force_critical=force, margins=given)
        rise_NT = scores.nll_NT - dense.nll_NT
        skip_rate = engine.work.skip_rate(skip_rate_per_unit(blocks, scores))
        rows.append(
            GuardCost(
                name, n_tokens, skip_rate, skip_rate - (rows[0].skip_rate if rows else skip_rate),
                math.expm1(float(rise_NT[real_NT[:, 1:]].mean())), _critical_rise(rise_NT, blocks),
            )
        )  # fmt: skip
        progress(done + 2, len(ways) + 1)
    return rows


def _critical_rise(rise_NT: Tensor, blocks: Blocks) -> float | None:
    critical_NT = (blocks.critical_NT[:, :-1] | blocks.critical_NT[:, 1:]) & blocks.real_NT[:, 1:]
    return float(rise_NT[critical_NT].mean()) if bool(critical_NT.any()) else None
