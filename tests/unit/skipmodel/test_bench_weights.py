"""int8 weights against dense ones, in turn, on the same texts."""

from __future__ import annotations

import pytest
import torch

from skipmodel.bench.loads import Batch, DecodeLoad, PrefillLoad
from skipmodel.bench.weights import time_weights
from skipmodel.engine.masked import open_engine
from skipmodel.errors import MeasurementError
from tests.tiny import VOCAB, make_skip


def texts(n: int, n_tokens: int) -> list[Batch]:
    """Random texts of one length."""
    generator = torch.Generator().manual_seed(0)
    return [Batch(torch.randint(3, VOCAB, (1, n_tokens), generator=generator)) for _ in range(n)]


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_both_arms_are_timed_in_turn_on_every_text(phase: str) -> None:
    """As many pairs as asked for, on two engines, with the interval of their log ratios around the ratio."""
    model, batches = make_skip(), texts(2, 12)
    engines = [open_engine(model), open_engine(model, "int8")]
    loads = [DecodeLoad(engine, batches, 8) if phase == "decode" else PrefillLoad(engine, batches)
             for engine in engines]  # fmt: skip

    row = time_weights(loads[0], loads[1], n_pairs=4)
    assert (row.phase, row.batch, row.n_pairs, len(row.dense_s), len(row.other_s)) == (phase, 1, 4, 4, 4)
    assert (row.prompt, row.output_tokens) == ((8, 4) if phase == "decode" else (12, 1))
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.speedup <= row.high
    assert row.to_json()["dtype"] == "float32"


def test_no_routing_reaches_the_clock() -> None:
    """Both arms run densely: nothing is counted as skipped although the routers would skip."""
    load = DecodeLoad(open_engine(make_skip()), texts(1, 10), 6)

    time_weights(load, load, n_pairs=2)
    assert load.rates_per_unit() == [0.0] * 6


def test_other_work_is_refused() -> None:
    """Two lengths, or reading against writing, are no pair."""
    engine = open_engine(make_skip())
    load = DecodeLoad(engine, texts(1, 10), 6)

    with pytest.raises(MeasurementError, match="same phase"):
        time_weights(load, DecodeLoad(engine, texts(1, 11), 6), n_pairs=2)
    with pytest.raises(MeasurementError, match="same phase"):
        time_weights(load, PrefillLoad(engine, texts(1, 6)), n_pairs=2)
