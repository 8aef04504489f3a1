"""Oracles: what must hold exactly, whatever the weights are. Tolerances are for float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from skipmodel.engine.executor import Engine, Routing
from tests.tiny import ENGINE_FAMILIES, FAMILIES, VOCAB, make_base, make_skip

TOLERANCE = 2e-5


def tokens(batch: int = 3, length: int = 9, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    """The masked reference, for every supported family."""

    def test_threshold_zero_is_the_base_model(self, family: str) -> None:
        """With threshold 0 every layer runs and the logits are the base model's, bit for bit."""
        ids = tokens()
        expected = make_base(family)(ids).logits
        model = make_skip(family)
        model.set_threshold(0.0)

        assert torch.equal(expected, model(ids).logits)

    def test_skipping_changes_the_output(self, family: str) -> None:
        """At threshold 0.5 the test model skips some layers but not all, and the logits differ."""
        ids = tokens()
        model = make_skip(family)
        skipped = model(ids).logits
        share = torch.stack([gate.float().mean() for gate in model.state.gates_BT.values()]).mean()
        model.set_threshold(0.0)

        assert 0.1 < float(share) < 0.95
        assert float((skipped - model(ids).logits).abs().max()) > 1e-3

    def test_cached_equals_uncached(self, family: str) -> None:
        """Greedy generation with the K/V cache gives the tokens that it gives without."""
        ids = tokens(1)
        model = make_skip(family)
        options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}

        assert torch.equal(
            model.generate(ids, use_cache=True, **options), model.generate(ids, use_cache=False, **options)
        )

    def test_padded_equals_single(self, family: str) -> None:
        """Left padding changes neither routing nor logits of a text."""
        ids = tokens(2)
        padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
        mask = torch.ones_like(padded)
        mask[:, :3] = 0
        model = make_skip(family)

        torch.testing.assert_close(
            model(padded, attention_mask=mask).logits[:, 3:], model(ids).logits, atol=TOLERANCE, rtol=0
        )

    def test_batched_equals_single(self, family: str) -> None:
        """A text is routed as if it were alone, whatever stands beside it in the batch."""
        ids = tokens(3)
        model = make_skip(family)
        single = torch.cat([model(row[None]).logits for row in ids])

        torch.testing.assert_close(model(ids).logits, single, atol=TOLERANCE, rtol=0)

    def test_saved_equals_loaded(self, family: str, tmp_path: Path) -> None:
        """A checkpoint loads through AutoModelForCausalLM with the same routing and the same logits."""
        ids = tokens()
        model = make_skip(family)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()

        assert torch.equal(model(ids).logits, loaded(ids).logits)

    def test_hidden_state_starts_a_beam_search(self, family: str) -> None:
        """Beam search, which reorders the cache, runs and keeps the prompt."""
        ids = tokens(2)
        out = make_skip(family).generate(
            ids, num_beams=3, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(ids)
        )

        assert torch.equal(ids, out[:, : ids.shape[1]])


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
@pytest.mark.parametrize("path", ["linear", "identity"])
class TestEngine:
    """The engine computes what the masked reference computes."""

    def test_dense(self, family: str, path: str) -> None:
        """Without routing the engine is the base model."""
        ids = tokens()
        engine = Engine(make_skip(family, path=path))

        torch.testing.assert_close(
            engine.logits(engine.hidden(ids).hidden_BTD), make_base(family)(ids).logits, atol=TOLERANCE, rtol=0
        )

    def test_gathered_equals_masked(self, family: str, path: str) -> None:
        """Computing executed rows only gives the logits and decisions of computing everything."""
        ids, forced = tokens(), torch.rand(3, 9) > 0.8
        model = make_skip(family, path=path)
        expected = model(ids, force_execute=forced).logits
        masks = {index: gate.clone() for index, gate in model.state.gates_BT.items()}
        engine = Engine(model)
        out = engine.hidden(ids, engine.routing(0.0), forced_BT=forced)

        torch.testing.assert_close(engine.logits(out.hidden_BTD), expected, atol=TOLERANCE, rtol=0)
        assert out.execute_mask_LBT is not None
        for index, mask in masks.items():
            assert torch.equal(mask, out.execute_mask_LBT[index])

    def test_branch_equals_masked(self, family: str, path: str) -> None:
        """Decoding token by token, skipping whole layers, gives the same logits as one masked pass."""
        ids = tokens(1)
        model = make_skip(family, path=path)
        engine = Engine(model)
        cache = engine.new_cache(1, ids.shape[1])
        steps = [engine.step(ids[:, t : t + 1], cache, engine.routing(0.0)) for t in range(ids.shape[1])]

        torch.testing.assert_close(
            torch.cat([logits for logits, _ in steps]), model(ids).logits[0], atol=TOLERANCE, rtol=0
        )
        assert sum(n for _, n in steps) > 0

    def test_chunked_equals_whole(self, family: str, path: str) -> None:
        """A text read in two chunks through the cache gives what one pass gives, batches included."""
        ids = tokens()
        engine = Engine(make_skip(family, path=path))
        whole = engine.hidden(ids, engine.routing(0.0)).hidden_BTD
        cache = engine.new_cache(3, 9)
        parts = [engine.hidden(part, engine.routing(0.0), cache=cache).hidden_BTD for part in (ids[:, :4], ids[:, 4:])]

        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=TOLERANCE, rtol=0)


def test_infinite_thresholds_are_the_ends() -> None:
    """-inf executes everything, +inf nothing but the guarded first positions."""
    engine = Engine(make_skip())
    everything = engine.hidden(tokens(), engine.routing(float("-inf"))).execute_mask_LBT
    nothing = engine.hidden(tokens(), engine.routing(float("inf"))).execute_mask_LBT

    assert everything is not None
    assert nothing is not None
    assert bool(everything.all())
    assert not bool(nothing[engine.routed_layers][:, :, engine.force_first_positions :].any())
    assert bool(nothing[:, :, : engine.force_first_positions].all())


def test_all_executed_through_gathering_is_dense() -> None:
    """Routing that skips nothing gives the dense result: gathering itself changes nothing."""
    engine, ids = Engine(make_skip()), tokens()

    torch.testing.assert_close(
        engine.hidden(ids, Routing()).hidden_BTD, engine.hidden(ids).hidden_BTD, atol=TOLERANCE, rtol=0
    )
