"""Timing: what is counted and what is computed from it. The clock itself is not judged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import MaskedEngine
from skipmodel.errors import MeasurementError
from skipmodel.measure import _random_tables, time_decode, time_prefill
from tests.tiny import N_LAYERS, VOCAB, make_skip

N_ROUTED = N_LAYERS - 2


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Six layers, four of them routed."""
    return Engine(make_skip())


def _texts(n: int, length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, VOCAB, (1, length), generator=generator) for _ in range(n)]


def test_ceiling_is_one_without_skips_and_rises(engine: Engine) -> None:
    """No skip, no gain; each further skip raises the mark; skips of always-run layers gain nothing."""
    rates = [0.0, 0.1, 0.3, 0.6, 1.0]
    marks = [engine.work.estimated_ceiling([rate] * N_LAYERS) for rate in rates]

    assert marks[0] == 1.0
    assert marks == sorted(set(marks))
    assert engine.work.estimated_ceiling([1.0, 0, 0, 0, 0, 1.0]) == 1.0


def test_ceiling_by_hand(engine: Engine) -> None:
    """1 / (1 - share of weights not touched): queries, output, MLP of the layer, less the skip path."""
    width, mlp, rank, kv_rows = 32, 64, 4, 2 * 2 * 8
    skippable = width * width + width * width + 3 * mlp * width  # queries, output, gate + up + down
    path = 2 * rank * width + width
    total = VOCAB * width + N_LAYERS * (skippable + kv_rows * width)
    rates = [0.0, 0.5, 0.25, 0.0, 1.0, 0.0]
    saved = sum(rates) * (skippable - path)

    assert engine.work.estimated_ceiling(rates) == pytest.approx(1 / (1 - saved / total))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, N_ROUTED / N_LAYERS])
def test_random_tables_meet_the_rate_step_by_step(engine: Engine, rate: float) -> None:
    """Every step skips the whole number of layers below or above the asked one; only routed layers; same by seed."""
    tables = list(_random_tables(engine, rate, 40, seed=7))
    skipped = [table.count(False) for table in tables]
    wanted = rate * N_LAYERS

    assert {math.floor(wanted + 1e-9), math.ceil(wanted - 1e-9)} >= set(skipped)
    assert abs(sum(skipped) - 40 * wanted) <= 1
    assert all(table[0] and table[-1] for table in tables)
    assert tables == list(_random_tables(engine, rate, 40, seed=7))
    assert rate == N_ROUTED / N_LAYERS or tables != list(_random_tables(engine, rate, 40, seed=8))


def test_random_decode_counts_what_it_skipped(engine: Engine) -> None:
    """As many samples as pairs in both arms, a counted rate within one layer of the asked one, its own ceiling."""
    row = time_decode(engine, _texts(2, 20), 12, 3, random_skip_rate=0.3)
    counted = sum(table.count(False) for table in _random_tables(engine, 0.3, 8, seed=0)) / (8 * N_LAYERS)
    per_layer = [counted * N_LAYERS / N_ROUTED if 0 < index < N_LAYERS - 1 else 0.0 for index in range(N_LAYERS)]

    assert (row.phase, row.routing, row.backend, row.batch) == ("decode", "random", "branch", 1)
    assert (row.prompt_tokens, row.output_tokens, row.dtype) == (12, 8, "float32")
    assert len(row.dense_s) == len(row.skip_s) == 3
    assert min(*row.dense_s, *row.skip_s) > 0
    assert row.skip_rate == pytest.approx(counted)
    assert abs(row.skip_rate - 0.3) <= 1 / N_LAYERS
    assert row.estimated_ceiling == pytest.approx(engine.work.estimated_ceiling(per_layer))


def test_trained_decode_counts_the_routers_decisions(engine: Engine) -> None:
    """The rate is that of stepping through the same text once, after a prompt that was read densely."""
    (text,) = _texts(1, 20)
    routing = engine.routing(0.0)
    row = time_decode(engine, [text], 12, 2, routing=routing)
    cache = engine.new_cache(1, 20)
    engine.hidden(text[:, :12], cache=cache)
    n_skipped = sum(engine.step(token, cache, routing)[1] for token in text[:, 12:].split(1, dim=1))

    assert row.routing == "trained"
    assert 0 < row.skip_rate < N_ROUTED / N_LAYERS
    assert row.skip_rate == pytest.approx(n_skipped / (8 * N_LAYERS))


def test_decode_that_executes_everything_counts_nothing(engine: Engine) -> None:
    """Threshold 0: rate 0, ceiling 1."""
    row = time_decode(engine, _texts(1, 12), 8, 2, routing=Routing())

    assert (row.skip_rate, row.estimated_ceiling) == (0.0, 1.0)


@pytest.mark.parametrize("n_texts", [1, 2])
def test_prefill_counts_the_rows_it_left_out(engine: Engine, n_texts: int) -> None:
    """The rate is the mean over the timed texts of what a plain pass with the same guards skips."""
    texts = _texts(n_texts, 24)
    forced = [torch.arange(24)[None] % 5 == 0 for _ in texts]
    routing = engine.routing(0.0)
    row = time_prefill(engine, texts, 4, routing=routing, forced=forced)
    rates = []
    for text, guard in zip(texts, forced, strict=True):
        mask: Any = engine.hidden(text, routing, forced_BT=guard).execute_mask_LBT
        rates.append((~mask).float().mean((1, 2)))
    per_layer = torch.stack(rates).mean(0).tolist()

    assert (row.phase, row.backend, row.prompt_tokens, row.output_tokens) == ("prefill", "gathered", 24, None)
    assert len(row.dense_s) == len(row.skip_s) == 4
    assert row.skip_rate == pytest.approx(sum(per_layer) / N_LAYERS)
    assert row.estimated_ceiling == pytest.approx(engine.work.estimated_ceiling(per_layer))


def test_random_prefill_skips_about_the_asked_share(engine: Engine) -> None:
    """Over many tokens the drawn mask comes near the asked rate of all layers."""
    row = time_prefill(engine, _texts(1, 400), 2, random_skip_rate=0.4)

    assert row.routing == "random"
    assert row.skip_rate == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("time_it", [lambda e, t: time_decode(e, t, 8, 2, random_skip_rate=0.7),
                                     lambda e, t: time_prefill(e, t, 2, random_skip_rate=0.7)])  # fmt: skip
def test_a_rate_above_the_routed_layers_is_refused(engine: Engine, time_it: Any) -> None:
    """Four of six layers cannot skip 70 % of all; the message says which setting to lower."""
    with pytest.raises(MeasurementError, match=r"random_skip_rates: 70% .* only 4 of 6 layers are routed; lower it"):
        time_it(engine, _texts(1, 12))


def test_the_masked_backend_is_timed_and_counted_alike(engine: Engine) -> None:
    """The same decisions give the same counted rate and ceiling; the row says which backend ran."""
    masked, text = MaskedEngine(make_skip()), _texts(1, 20)
    for time_it in (
        lambda e: time_decode(e, text, 12, 2, routing=e.routing(0.0)),
        lambda e: time_decode(e, text, 12, 2, random_skip_rate=0.3),
        lambda e: time_prefill(e, text, 2, routing=e.routing(0.0)),
        lambda e: time_prefill(e, text, 2, random_skip_rate=0.3),
    ):
        fast, slow = time_it(engine), time_it(masked)

        assert slow.backend == "masked"
        assert (slow.skip_rate, slow.estimated_ceiling) == (fast.skip_rate, fast.estimated_ceiling)
        assert 0 < slow.skip_rate < N_ROUTED / N_LAYERS


def test_sublayers_count_as_their_share_of_a_layer() -> None:
    """Eight of twelve sub-layers routed: a rate within all layer executions, weighted by what each part is."""
    engine = MaskedEngine(make_skip(unit="sublayers"))
    (text,) = _texts(1, 20)
    row = time_decode(engine, [text], 12, 2, random_skip_rate=0.3)
    share = engine.work.unit_share
    skipped = torch.tensor([table.count(False) for table in _random_tables(engine, 0.3, 8, seed=0)])

    assert row.skip_rate == pytest.approx(float(skipped.float().mean()) * (share[0] + share[1]) / 2 / N_LAYERS)
    assert abs(row.skip_rate - 0.3) <= 1 / N_LAYERS
