"""Counted work: shares of a layer, skippable weights and the ceiling, by hand for a tiny Llama."""

from __future__ import annotations

import pytest

from skipmodel.lora import Lora
from skipmodel.work import Work
from tests.tiny import FAMILIES, N_LAYERS, VOCAB, make_skip

WIDTH, MLP, RANK = 32, 64, 4
KEY_VALUE = 2 * 2 * 8 * WIDTH  # two matrices, two heads of width 8
ATTENTION = 2 * WIDTH * WIDTH + KEY_VALUE
FFN = 3 * MLP * WIDTH
PATH = 2 * RANK * WIDTH + WIDTH
TOTAL = VOCAB * WIDTH + N_LAYERS * (ATTENTION + FFN)


@pytest.mark.parametrize(
    ("unit", "kv", "share", "skippable"),
    [
        ("layer", "project", [1.0], [ATTENTION + FFN - KEY_VALUE - PATH]),
        ("layer", "drop", [1.0], [ATTENTION + FFN - PATH]),
        ("attention", "project", [ATTENTION / (ATTENTION + FFN)], [ATTENTION - KEY_VALUE - PATH]),
        ("attention", "drop", [ATTENTION / (ATTENTION + FFN)], [ATTENTION - PATH]),
        ("ffn", "project", [FFN / (ATTENTION + FFN)], [FFN - PATH]),
        ("sublayers", "project", [ATTENTION / (ATTENTION + FFN), FFN / (ATTENTION + FFN)],
         [ATTENTION - KEY_VALUE - PATH, FFN - PATH]),
    ],
)  # fmt: skip
def test_a_llama_by_hand(unit: str, kv: str, share: list[float], skippable: list[int]) -> None:
    """Routed units save their weights, less keys and values that are projected anyway and less their skip path."""
    work = make_skip(unit=unit, kv=kv).work

    assert work.unit_share == pytest.approx(share * N_LAYERS)
    assert list(work.skippable) == [0] * len(share) + skippable * (N_LAYERS - 2) + [0] * len(share)
    assert (work.total, work.n_layers) == (TOTAL, N_LAYERS)


@pytest.mark.parametrize("path", ["identity", "adapter"])
def test_the_skip_path_is_work_too(path: str) -> None:
    """No path costs nothing, an adapter twice the matrices."""
    own = {"identity": 0, "adapter": 4 * RANK * WIDTH + WIDTH}[path]

    assert make_skip(path=path).work.skippable[1] == ATTENTION + FFN - KEY_VALUE - own


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "opt"])
def test_the_two_sublayers_make_the_layer(family: str) -> None:
    """For every family the shares of attention and feed-forward part sum to one layer."""
    share = make_skip(family, unit="sublayers").work.unit_share

    assert [share[i] + share[i + 1] for i in range(0, len(share), 2)] == pytest.approx([1.0] * N_LAYERS)
    assert min(share) > 0.1


def test_units_that_always_run_save_nothing() -> None:
    """Closed units stay in the shares and leave the skippable weights."""
    model = make_skip()
    model.close_units([2])
    work = model.work

    assert work.skippable[2] == 0
    assert work.unit_share == (1.0,) * N_LAYERS


def test_lora_matrices_are_not_counted() -> None:
    """During a training with LoRA the shares of the sub-layers stay what they are."""
    model = make_skip(unit="sublayers")
    before = model.work
    lora = Lora(model.lm, 8, 0)

    assert model.work == before
    lora.merge()
    assert model.work == before


def test_rates_and_ceiling_by_hand() -> None:
    """Two layers of two parts: skip rates weighted by share, per layer and in total; the ceiling from saved weights."""
    work = Work((0.25, 0.75, 0.25, 0.75), (10, 30, 0, 30), 100, 2)
    rates = [0.4, 0.2, 0.0, 1.0]

    assert work.skip_rate(rates) == pytest.approx((0.1 + 0.15 + 0.0 + 0.75) / 2)
    assert work.per_layer(rates) == pytest.approx([0.25, 0.75])
    assert work.estimated_ceiling(rates) == pytest.approx(1 / (1 - (4 + 6 + 0 + 30) / 100))
    assert work.estimated_ceiling([0.0] * 4) == 1.0


def test_prefill_ceiling_by_hand() -> None:
    """Reading a prompt counts multiplications: attention grows with its length, the vocabulary counts once."""
    work, n_tokens = make_skip().work, 9
    per_key, n_keys = 2 * 4 * 8, 5  # four heads of width 8; nine tokens see 1..9 keys
    rates = [1.0, 0.5, 0.0, 0.0, 0.0, 1.0]  # the first and the last layer cannot skip
    saved = 0.5 * (ATTENTION + FFN - KEY_VALUE - PATH + per_key * n_keys)
    total = N_LAYERS * (ATTENTION + FFN + per_key * n_keys) + VOCAB * WIDTH / n_tokens

    assert work.prefill_ceiling(rates, n_tokens) == pytest.approx(1 / (1 - saved / total))
    assert work.prefill_ceiling([0.0] * N_LAYERS, n_tokens) == 1.0
    assert work.prefill_ceiling(rates, 900) > work.prefill_ceiling(rates, 9) > work.estimated_ceiling(rates)
