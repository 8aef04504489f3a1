"""What only some families have, in the engine: windows, rotary positions of some kinds, biases, parallel layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from skipmodel.config import SkipConfig
from skipmodel.engine.executor import Engine
from skipmodel.engine.masked import MaskedEngine, open_engine
from skipmodel.errors import ConfigError
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import FAMILIES, VOCAB

LENGTH = 14
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, window shorter than the text": ("mistral", {"sliding_window": 5}),
    "qwen2, windows in the upper layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3}),
    "gemma2, every other layer with a window": ("gemma2", {"sliding_window": 5}),
    "gemma3, windows and two kinds of positions": ("gemma3_text", {"sliding_window": 5}),
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, stretched positions": ("llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    "neox, a quarter of each head turns": ("gpt_neox", {"rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
    "neox, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt2, another activation": ("gpt2", {"activation_function": "relu"}),
}  # fmt: skip


def make(family: str, options: dict[str, Any]) -> SkipLayerForCausalLM:
    """Return a routed random model of a family with more settings."""
    torch.manual_seed(3)
    merged = FAMILIES[family] | options
    attention = merged.pop("attn_implementation", None)
    config = AutoConfig.for_model(family, **merged)
    base: Any = AutoModelForCausalLM.from_config(config, **({"attn_implementation": attention} if attention else {}))
    for name, parameter in base.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith("weight") and ("norm" in name or "ln_" in name):
            parameter.data += 1.0
    model = SkipLayerForCausalLM.from_base(base.eval(), SkipConfig(path_rank=4, always_run_first=1, always_run_last=1))
    for _, module in model.routed:
        torch.nn.init.normal_(module.router.weight, std=0.5)
        module.router.bias.data.zero_()
        for parameter in module.skip_path.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.set_threshold(0.5)
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_engine_is_the_masked_reference(name: str) -> None:
    """Dense, gathered, in two chunks and token by token: the logits of the model's own forward pass."""
    family, options = VARIANTS[name]
    model = make(family, options)
    ids = torch.randint(3, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    expected = model(ids).logits
    skipped = sum(float((~gate).float().mean()) for gate in model.state.gates_BT.values())
    with model.routing("dense"):
        dense = model(ids).logits
    engine = Engine(model)
    routing = engine.routing(0.0)
    cache, second = engine.new_cache(1, LENGTH), engine.new_cache(1, LENGTH)
    chunks = torch.cat([engine.hidden(part, routing, cache=cache).hidden_BTD for part in (ids[:, :6], ids[:, 6:])], 1)
    steps = torch.cat([engine.step(ids[:, [t]], second, routing)[0] for t in range(LENGTH)])[None]
    limit = 5e-5 * max(1.0, float(expected.std()))

    assert skipped > 0.3
    assert float((dense - expected).abs().max()) > 100 * limit
    for got, reference in ((engine.logits(engine.hidden(ids).hidden_BTD), dense),
                           (engine.logits(engine.hidden(ids, routing).hidden_BTD), expected),
                           (engine.logits(chunks), expected), (steps, expected)):  # fmt: skip
        torch.testing.assert_close(got, reference, atol=limit, rtol=0)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "change with the length": ("llama", {"rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}),
    "its own scaling": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "behind its sub-layers": ("opt", {"do_layer_norm_before": False}),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_engine_cannot_run_is_masked(reason: str) -> None:
    """Such a model opens the masked backend; the engine refuses it and says why."""
    model = make(*REFUSED[reason])

    assert type(open_engine(model)) is MaskedEngine
    with pytest.raises(ConfigError, match=reason):
        Engine(model)
    with pytest.raises(ConfigError, match=reason):
        open_engine(model, "int8")
