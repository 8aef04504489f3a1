"""The oracles on a CUDA device, in float32 and bfloat16. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from skipmodel.bench.cells import time_cell
from skipmodel.bench.loads import Batch, DecodeLoad, PrefillLoad
from skipmodel.engine.executor import Engine
from tests.tiny import ENGINE_FAMILIES, VOCAB, make_skip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device; on a GPU box: make env TORCH=torch==2.13.0 && make test ARGS='-m gpu'",
    ),
]


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
def test_gathered_and_branch_equal_masked(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Both backends give the masked reference's logits on the device, for the reference's own decisions."""
    model = make_skip(family).to("cuda", dtype)
    for _, layer in model.routed:
        layer.router.float()
    ids = torch.randint(3, VOCAB, (1, 12), device="cuda")
    engine = Engine(model)
    with torch.no_grad():
        expected = model(ids).logits
        masks = torch.ones(engine.n_layers, 1, 12, dtype=torch.bool, device="cuda")
        for index, gate in model.state.gates_BT.items():
            masks[index] = gate
    out = engine.hidden(ids, engine.routing(0.0))
    assert out.execute_mask_LBT is not None
    agree = (out.execute_mask_LBT == masks).float().mean()

    assert float(agree) > 0.95  # a logit at the threshold may fall on either side
    if bool((out.execute_mask_LBT == masks).all()):
        torch.testing.assert_close(engine.logits(out.hidden_BTD), expected, atol=tolerance, rtol=0)


def test_timing_waits_for_the_device() -> None:
    """Timed cells come back with positive times for every pair."""
    engine = Engine(make_skip().to("cuda"))
    texts = [Batch(torch.randint(3, VOCAB, (2, 24)))]
    one = [Batch(texts[0].ids_BT[:1])]
    routing = engine.routing(0.0)
    for load in (
        DecodeLoad(engine, one, 16, routing),
        DecodeLoad(engine, texts, 16, routing),
        PrefillLoad(engine, texts, routing),
    ):
        row = time_cell(engine, load, n_pairs=3, kind="trained")
        assert len(row.dense_s) == 3
        assert min(*row.dense_s, *row.skip_s) > 0
        assert row.peak_memory is not None
        assert row.peak_memory["of"] == "cuda_allocator"
