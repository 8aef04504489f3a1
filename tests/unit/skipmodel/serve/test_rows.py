"""Rows of many sequences in one pass: each as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from skipmodel.engine.executor import Engine
from skipmodel.engine.lanes import LanePass
from skipmodel.engine.rows import Row, RowPass, SlotCache, check_context, find_floor
from skipmodel.errors import ConfigError
from tests.tiny import ENGINE_FAMILIES, VOCAB, make_skip

BACKENDS: dict[str, Callable[[Engine], Any]] = {"lanes": LanePass, "rows": RowPass}
LENGTHS = (3, 9, 5)


def texts(seed: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length + 4,), generator=generator).tolist() for length in LENGTHS]


def decode(backend: Any, cache: SlotCache, slots: list[int], ids: list[list[int]], logit: float) -> Any:
    """Read prompts of different lengths into slots, then feed four tokens of each side by side."""
    engine, out = backend.engine, []
    for slot, text in zip(slots, ids, strict=True):
        cache.slots[slot].rewind(0)
        engine.hidden(torch.tensor([text[:-4]]), None, cache=cache.slots[slot])
    for t in range(4):
        thresholds = [logit if i != 1 else -math.inf for i in range(len(slots))]
        rows = [
            Row(cache.slots[s], x[t - 4], threshold) for s, x, threshold in zip(slots, ids, thresholds, strict=True)
        ]
        out.append(backend.run(rows, cache))
    return out


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_a_row_is_a_step_of_its_sequence_alone(family: str, name: str) -> None:
    """Logits and skipped layers are those of `Engine.step`; by lanes bit for bit. Dense rows stand among them."""
    engine = Engine(make_skip(family))
    passes = BACKENDS[name](engine)
    got = decode(passes, SlotCache(engine, 4, 16), [2, 0, 3], texts(), 0.0)
    n_skipped = 0
    for i, text in enumerate(texts()):
        cache = engine.new_cache(1, 16)
        engine.hidden(torch.tensor([text[:-4]]), None, cache=cache)
        for t in range(4):
            routing = None if i == 1 else engine.routing(0.0)
            logits, skipped = engine.step(torch.tensor([[text[t - 4]]]), cache, routing)
            if name == "lanes":
                assert torch.equal(got[t].logits[i], logits[0])
            else:
                torch.testing.assert_close(got[t].logits[i], logits[0], atol=3e-5 * float(logits.std()), rtol=1e-4)
            assert len(got[t].skipped[i]) == skipped
            n_skipped += skipped
    assert n_skipped > 8


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_neighbours_change_no_bit(family: str, name: str) -> None:
    """Alone or beside others, in whatever slot: the same logits, to the last bit."""
    engine = Engine(make_skip(family))
    passes = BACKENDS[name](engine)
    many = texts() + texts(6) + texts(7)
    beside = decode(passes, SlotCache(engine, 12, 16), list(range(9)), many, 0.0)
    alone = decode(passes, SlotCache(engine, 3, 16), [2], [many[4]], 0.0)
    for t in range(4):
        assert torch.equal(beside[t].logits[4], alone[t].logits[0])
        assert beside[t].skipped[4] == alone[t].skipped[0]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_several_tokens_of_one_sequence_are_its_next_steps(family: str, name: str) -> None:
    """Verifying four tokens in one pass gives bit for bit what four passes give, beside another sequence."""
    engine = Engine(make_skip(family))
    passes, (text, other, _) = BACKENDS[name](engine), texts()
    cache = SlotCache(engine, 2, 20)
    for slot, ids in zip(cache.slots, (text, other), strict=True):
        engine.hidden(torch.tensor([ids[:-4]]), None, cache=slot)
    kept = cache.slots[0].length
    one_by_one = [passes.run([Row(cache.slots[0], token)], cache).logits[0] for token in text[-4:]]
    cache.slots[0].rewind(kept)
    rows = [Row(cache.slots[1], other[-1], 0.0), *[Row(cache.slots[0], token) for token in text[-4:]]]
    at_once = passes.run(rows, cache)
    assert torch.equal(at_once.logits[1:], torch.stack(one_by_one))
    assert cache.slots[0].length == kept + 4
    assert cache.slots[1].length == len(other) - 3


@pytest.mark.parametrize("name", BACKENDS)
def test_a_full_slot_is_refused_before_anything_is_written(name: str) -> None:
    """One token more than the capacity: an error that names it, and no slot grew."""
    engine = Engine(make_skip())
    cache = SlotCache(engine, 2, 3)
    rows = [Row(cache.slots[1], 5), *[Row(cache.slots[0], 5)] * 4]
    with pytest.raises(ConfigError, match="holds 3 positions"):
        BACKENDS[name](engine).run(rows, cache)
    assert [slot.length for slot in cache.slots] == [0, 0]


@pytest.mark.parametrize("name", BACKENDS)
def test_logits_come_only_for_rows_that_want_them(name: str) -> None:
    """Rows in the middle of a prompt need no vocabulary product."""
    engine = Engine(make_skip())
    cache = SlotCache(engine, 1, 8)
    rows = [Row(cache.slots[0], 5, wants_logits=i in (1, 3)) for i in range(4)]
    assert BACKENDS[name](engine).run(rows, cache).logits.shape == (2, VOCAB)
    assert BACKENDS[name](engine).run([Row(cache.slots[0], 5, wants_logits=False)], cache).logits.shape == (0, VOCAB)


@pytest.mark.parametrize("router", ["linear", "bottleneck"])
def test_other_routers_decide_alike(router: str) -> None:
    """Routers without one weight vector are called, and rows still change no bit of each other."""
    engine = Engine(make_skip(router=router))
    beside = decode(RowPass(engine), SlotCache(engine, 3, 16), [0, 1, 2], texts(), 0.0)
    alone = decode(RowPass(engine), SlotCache(engine, 1, 16), [0], texts()[:1], 0.0)
    assert all(torch.equal(a.logits[0], b.logits[0]) for a, b in zip(beside, alone, strict=True))


def test_the_floor_is_found_on_this_machine() -> None:
    """The probe finds a number of rows from which products do not depend on their number."""
    assert find_floor(Engine(make_skip())) in (4, 8, 16)


def test_a_context_beyond_the_models_positions_is_refused() -> None:
    """Learned positions end; so does what a configuration says."""
    engine = Engine(make_skip("gpt2"))
    with pytest.raises(ConfigError, match="at most 64"):
        check_context(engine, 65, None)
    with pytest.raises(ConfigError, match="at most 32"):
        check_context(engine, 33, 32)
    check_context(engine, 64, 64)
