"""Routing drawn at random at a fixed rate: what timings use to show how time falls with skipping, whatever was learned.

Legend: B sequences, T tokens, L units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from skipmodel.engine.masked import AnyEngine
from skipmodel.errors import MeasurementError


def rate_of_routed(engine: AnyEngine, skip_rate: float) -> float:
    """Return the skip probability within the routed units that gives this rate over all layers.

    Raises:
        MeasurementError: So few layers are routed that the rate is out of reach.
    """
    routed = sum(engine.work.unit_share[index] for index in engine.routed_units)
    share = skip_rate * engine.n_layers / routed if routed > 0 else math.inf
    if share > 1.0 + 1e-9:
        raise MeasurementError(
            f"random skip rate: {skip_rate:.0%} of all layers is out of reach, only {routed:.3g} of "
            f"{engine.n_layers} layers are routed; lower it (--skip-rates, model.measure.random_skip_rates)"
        )
    return min(share, 1.0)


def random_tables(engine: AnyEngine, skip_rate: float, n_steps: int, seed: int) -> Iterator[list[bool]]:
    """Yield per decode step which units run; every step skips the whole number of routed units next to the rate.

    What a step rounds away is carried to the next, so that the rate is met over the run.
    """
    generator = torch.Generator().manual_seed(seed)
    routed = torch.tensor(engine.routed_units)
    want, carried = rate_of_routed(engine, skip_rate) * len(routed), 0.0
    for _ in range(n_steps):
        carried += want + 1e-9  # a whole number must not fall to the one below by rounding
        n_skip, carried = int(carried), carried - int(carried)
        table = [True] * engine.n_units
        for index in routed[torch.randperm(len(routed), generator=generator)[:n_skip]].tolist():
            table[index] = False
        yield table


def random_step_masks(engine: AnyEngine, skip_rate: float, n_steps: int, batch: int, seed: int) -> list[Tensor]:
    """Return one execute mask (L, B, 1) per decode step; every row of the batch skips on its own."""
    rows = [torch.tensor(list(random_tables(engine, skip_rate, n_steps, seed + row))) for row in range(batch)]
    mask_SLB = torch.stack(rows, -1).to(engine.device)
    return [mask_LB[..., None] for mask_LB in mask_SLB]


def random_prompt_mask(engine: AnyEngine, skip_rate: float, shape: tuple[int, int], seed: int) -> Tensor:
    """Return an execute mask (L, B, T) in which every token skips each routed unit with the same probability."""
    rates = torch.zeros(engine.n_units)
    rates[engine.routed_units] = rate_of_routed(engine, skip_rate)
    drawn = torch.rand(engine.n_units, *shape, generator=torch.Generator().manual_seed(seed))
    return (drawn >= rates[:, None, None]).to(engine.device)
