"""K/V policy `drop`: later tokens do not see the keys of a token that skipped, in that layer alone.

The oracle runs the base model's own modules on the executing tokens only, at their true positions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, StaticCache

from skipmodel.config import SkipConfig
from skipmodel.errors import ConfigError
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import normalise
from tests.tiny import N_LAYERS, VOCAB, make_skip

LENGTH = 11


def _tokens(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(2))


def _mask(model: SkipLayerForCausalLM, ids: Tensor, execute_share: float = 0.5) -> Tensor:
    """Return a random mask (L, B, T) of routed units; the first two positions and units not routed run."""
    shape = (len(model.units), *ids.shape)
    mask_LBT = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < execute_share
    mask_LBT[:, :, :2] = True
    for index in set(range(len(model.units))) - set(model.config.routed_units):
        mask_LBT[index] = True
    return mask_LBT


class _ByHand:
    """One text through the modules of a Llama, each unit on its executing tokens only."""

    def __init__(self, model: SkipLayerForCausalLM, mask_LT: Tensor) -> None:
        self.model, self.mask_LT = model, mask_LT
        self.inner: Any = model.lm.model

    def logits(self, ids_1T: Tensor) -> Tensor:
        """Return vocabulary logits, (T, V)."""
        hidden_TD = self.inner.embed_tokens(ids_1T)[0]
        parts = {"layer": (), "sublayers": ("attention", "ffn")}.get(self.model.config.unit, (self.model.config.unit,))
        for number, layer in enumerate(self.model.layers):
            if not parts:
                run_T = self.mask_LT[number]
                dense_TD = self._ffn(layer, self._attended(layer, hidden_TD, run_T, None), None)
                hidden_TD = torch.where(run_T[:, None], dense_TD, hidden_TD + self._path(layer, hidden_TD))
                continue
            every_T = torch.ones_like(self.mask_LT[0])
            run = {part: self.mask_LT[number * len(parts) + at] for at, part in enumerate(parts)}
            hidden_TD = self._attended(layer, hidden_TD, run.get("attention", every_T), layer.self_attn)
            hidden_TD = self._ffn(layer, hidden_TD, run.get("ffn", every_T))
        return self.model.lm.lm_head(self.inner.norm(hidden_TD))

    def _path(self, unit: Any, given_TD: Tensor) -> Tensor:
        path = unit._modules.get("skip_path")
        return torch.zeros_like(given_TD) if path is None else path(normalise(given_TD))

    def _attended(self, layer: Any, hidden_TD: Tensor, run_T: Tensor, unit: Any) -> Tensor:
        """Attention among executing tokens; a token that skips gets the path of its own unit, if it has one."""
        attention = layer.self_attn
        given_TD = layer.input_layernorm(hidden_TD)
        kept_XD = given_TD[run_T]
        cos, sin = self.inner.rotary_emb(given_TD[None], torch.arange(len(run_T))[None])
        query, key, value = (
            part(kept_XD).view(len(kept_XD), -1, attention.head_dim).transpose(0, 1)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = (_rotated(part, cos[0, run_T], sin[0, run_T]) for part in (query, key))
        share = len(query) // len(key)
        score = query @ key.repeat_interleave(share, 0).transpose(1, 2) * attention.scaling
        later = torch.ones(score.shape[1:], dtype=torch.bool).triu(1)
        seen = score.masked_fill(later, float("-inf")).softmax(-1) @ value.repeat_interleave(share, 0)
        update_TD = self._path(unit, given_TD) if unit is not None else torch.zeros_like(given_TD)
        update_TD = update_TD.index_copy(0, run_T.nonzero()[:, 0], attention.o_proj(seen.transpose(0, 1).flatten(1)))
        return hidden_TD + update_TD

    def _ffn(self, layer: Any, hidden_TD: Tensor, run_T: Tensor | None) -> Tensor:
        given_TD = layer.post_attention_layernorm(hidden_TD)
        mlp = layer.mlp
        update_TD = mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(given_TD)) * mlp.up_proj(given_TD))
        if run_T is not None:
            update_TD = torch.where(run_T[:, None], update_TD, self._path(mlp, given_TD))
        return hidden_TD + update_TD


def _rotated(heads_HTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    first, second = heads_HTE.chunk(2, -1)
    return heads_HTE * cos_TE + torch.cat([-second, first], -1) * sin_TE


@pytest.mark.parametrize("unit", ["layer", "attention", "sublayers"])
@pytest.mark.parametrize("path", ["linear", "identity"])
@pytest.mark.parametrize("execute_share", [0.15, 0.5, 0.9])
@torch.no_grad()
def test_logits_are_those_without_the_dropped_keys(unit: str, path: str, execute_share: float) -> None:
    """Attention computed by hand among executing tokens only gives the same logits, for every text of a batch."""
    model = make_skip(path=path, unit=unit, kv="drop")
    ids = _tokens()
    mask_LBT = _mask(model, ids, execute_share)
    with model.routing("hard", override_mask_LBT=mask_LBT):
        logits = model(ids).logits
    by_hand = torch.stack([_ByHand(model, mask_LBT[:, row]).logits(ids[[row]]) for row in range(len(ids))])

    torch.testing.assert_close(logits, by_hand, atol=2e-5, rtol=1e-5)
    projecting = make_skip(path=path, unit=unit)
    with projecting.routing("hard", override_mask_LBT=mask_LBT):
        assert float((projecting(ids).logits - logits).abs().max()) > 1e-3


@torch.no_grad()
def test_a_layer_on_a_shorter_text_is_the_same() -> None:
    """A last layer that a token skips: what the others give is what they give with that token cut out of the layer."""
    model = make_skip("gpt2", path="identity", kv="drop")
    ids = _tokens(1)
    mask_LBT = torch.ones(N_LAYERS, 1, LENGTH, dtype=torch.bool)
    mask_LBT[4, 0, 3:8:2] = False
    layer: Any = model.layers[4]
    seen: dict[str, Tensor] = {}
    handle = layer.register_forward_hook(lambda m, args, out: seen.update(given=args[0], out=out))
    with model.routing("hard", override_mask_LBT=mask_LBT):
        model(ids)
    handle.remove()
    run_T = mask_LBT[4, 0]
    model.state.gates_BT.clear()
    with model.routing("dense"):
        alone = layer(seen["given"][:, run_T])
        whole = layer(seen["given"])

    torch.testing.assert_close(seen["out"][:, run_T], alone, atol=2e-5, rtol=1e-5)
    assert torch.equal(seen["out"][:, ~run_T], seen["given"][:, ~run_T])
    assert float((whole[:, run_T] - alone).abs().max()) > 1e-3


@pytest.mark.parametrize("unit", ["layer", "attention"])
@torch.no_grad()
def test_every_step_through_a_growing_cache_is_one_pass(unit: str) -> None:
    """Fed in pieces of any size, with a batch that a beam search reorders in between, the logits stay the same."""
    model = make_skip(unit=unit, kv="drop")
    ids = _tokens(3)
    expected = model(ids).logits
    order = torch.tensor([2, 0, 1])
    cache = DynamicCache()
    first = model(ids[:, :5], past_key_values=cache).logits
    cache.reorder_cache(order)
    rest = [model(ids[order, start:end], past_key_values=cache).logits for start, end in ((5, 6), (6, 9), (9, 11))]

    torch.testing.assert_close(first, expected[:, :5], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(rest, 1), expected[order, 5:], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral"])
@torch.no_grad()
def test_windows_and_dropped_keys_go_together(family: str) -> None:
    """With a window shorter than the text, cached and uncached passes agree, whole and in pieces."""
    options: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "vocab_size": VOCAB, "sliding_window": 4,
    }  # fmt: skip
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options), attn_implementation="eager")
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = SkipLayerForCausalLM.from_base(base.eval(), SkipConfig(path_rank=4, always_run_first=0, kv="drop"))
    for _, layer in model.routed:
        torch.nn.init.normal_(layer.router.weight, std=0.5)
        layer.router.bias.zero_()
    model.set_threshold(0.5)
    ids = _tokens(2)
    expected = model(ids, use_cache=False).logits
    cache = DynamicCache(config=model.config)
    whole = model(ids, past_key_values=DynamicCache(config=model.config)).logits
    pieces = [(0, 3), (3, 9), (9, 10), (10, 11)]
    parts = [model(ids[:, start:end], past_key_values=cache).logits for start, end in pieces]
    model.set_threshold(0.0)
    dense = model(ids).logits

    torch.testing.assert_close(whole, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-5, rtol=1e-5)
    assert float((dense - expected).abs().max()) > 1e-3


@torch.no_grad()
def test_a_static_cache_is_refused() -> None:
    """The fixed cache has no room for the mark of a dropped key; the message says what to use instead."""
    model = make_skip(kv="drop")
    ids = _tokens(1)
    message = r"model\.skip\.kv is drop, which needs the growing cache.*got a StaticLayer.*model\.skip\.kv: project"
    with pytest.raises(ConfigError, match=message):
        model(ids, past_key_values=StaticCache(config=model.config, max_cache_len=32))
    with pytest.raises(ConfigError, match=message):
        model.generate(ids, max_new_tokens=2, do_sample=False, cache_implementation="static",
                       attention_mask=torch.ones_like(ids))  # fmt: skip
    projecting = make_skip()
    whole = projecting(ids).logits

    torch.testing.assert_close(
        projecting(ids, past_key_values=StaticCache(config=projecting.config, max_cache_len=32)).logits, whole,
        atol=2e-5, rtol=1e-5,
    )  # fmt: skip


def test_training_hides_the_same_keys() -> None:
    """In mode train the gates of the pass hide keys as at inference, and gradients reach routers and paths."""
    model = make_skip(kv="drop")
    ids = _tokens()
    with torch.no_grad():
        expected = model(ids).logits
    with model.routing("train"):
        logits = model(ids, use_cache=False).logits
    logits.square().mean().backward()

    torch.testing.assert_close(logits.detach(), expected, atol=2e-5, rtol=1e-5)
    assert all(float(layer.router.weight.grad.norm()) > 0 for _, layer in model.routed)
    assert all(float(layer.skip_path.up.grad.norm()) > 0 for _, layer in model.routed)
