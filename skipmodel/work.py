"""How much work a routed unit is, and how much of it a skipped token leaves out: counted weights, not time.

Legend: L routed units, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from skipmodel.families import family_of


@dataclass(frozen=True)
class Work:
    """Weights read per token, which is what batch-1 decoding costs and what multiply-adds count.

    Attributes:
        unit_share: Per unit, its share of one decoder layer; the shares of all units of all layers that may be
            routed sum to at most the number of layers.
        skippable: Per unit, weights that a skipped token does not touch, less those that only it touches (its
            skip path); 0 where nothing can skip.
        total: All weights read for one token: layers and vocabulary matrix.
        n_layers: Decoder layers of the model.
        vocabulary: Weights of the vocabulary matrix, which a prefill multiplies by the last token only.
        per_key: Per unit, multiplications of one query with one key and its value over all heads; 0 for units
            without attention.
        per_key_total: The same over all layers, routed or not.
    """

    unit_share: tuple[float, ...]
    skippable: tuple[int, ...]
    total: int
    n_layers: int
    vocabulary: int = 0
    per_key: tuple[int, ...] = ()
    per_key_total: int = 0

    def skip_rate(self, rate_per_unit: Sequence[float]) -> float:
        """Share of all layer executions skipped: sum of rate * unit_share, over the number of layers.

        The denominator counts the layers that always run too, so that rates compare across routed ranges.
        """
        return sum(rate * share for rate, share in zip(rate_per_unit, self.unit_share, strict=True)) / self.n_layers

    def per_layer(self, rate_per_unit: Sequence[float]) -> list[float]:
        """Skip rate of each decoder layer, its units weighted by their share of it."""
        n_parts = len(rate_per_unit) // self.n_layers
        weighted = [rate * share for rate, share in zip(rate_per_unit, self.unit_share, strict=True)]
        return [sum(weighted[i * n_parts : (i + 1) * n_parts]) for i in range(self.n_layers)]

    def estimated_ceiling(self, rate_per_unit: Sequence[float]) -> float:
        """Return 1 / (1 - share of weights not touched), an upper mark for batch 1 with no overhead at all.

        **Formula**: 1 / (1 - sum_l s_l * w_l / W); s_l skip rate of unit l, w_l its skippable weights, W all
        weights read per token.
        **Source**: ours, after the weight-bandwidth model of batch-1 decoding.
        """
        saved = sum(rate * weights for rate, weights in zip(rate_per_unit, self.skippable, strict=True))
        return 1.0 / (1.0 - saved / self.total)

    def prefill_ceiling(self, rate_per_unit: Sequence[float], n_tokens: int) -> float:
        """Return the same mark for reading a prompt at once, where multiplications count and not weights read.

        **Formula**: 1 / (1 - sum_l s_l * (w_l + a_l * k) / W), W = (weights of the layers) + A * k + vocabulary / T;
        s_l skip rate of unit l, w_l its skippable weights, a_l its multiplications per key, A those
        of all layers, T prompt tokens, k = (T + 1) / 2 keys that a token sees on average.
        **Source**: ours; norms, activations and the softmax are not counted.
        """
        n_keys = (n_tokens + 1) / 2
        per_key = self.per_key or (0,) * len(self.skippable)
        # Units that cannot skip are in the total and save nothing, whatever their rate says.
        saved = sum(
            rate * (weights + keys * n_keys)
            for rate, weights, keys in zip(rate_per_unit, self.skippable, per_key, strict=True) if weights > 0
        )  # fmt: skip
        total = self.total - self.vocabulary * (1 - 1 / n_tokens) + self.per_key_total * n_keys
        return 1.0 / (1.0 - saved / total)


def in_order(logits_LM: Tensor, share_L: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of all units and tokens from the lowest up, and the layer executions up to each of them.

    A unit counts as its share of a layer: what lies below a threshold on the first is what skips, by the second.
    """
    order = logits_LM.flatten().argsort()
    done = share_L[:, None].expand_as(logits_LM).flatten()[order].double().cumsum(0)
    return logits_LM.flatten()[order], done


def count_work(model: Any) -> Work:
    """Count the weights of a `SkipLayerForCausalLM`."""
    config = model.config.text_config
    family = family_of(config.model_type)
    layers = list(model.layers)
    layer_size = [_base_size(layer) for layer in layers]
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or heads
    attention = 2 * heads * head_width
    key_value = 2 * config.hidden_size * n_kv_heads * head_width if model.config.kv == "project" else 0
    shares, skippable, per_key = [], [], []
    for index, unit in enumerate(model.units):
        layer = index * len(layers) // len(model.units)
        size = _base_size(unit)
        shares.append(size / layer_size[layer])
        is_ffn = family.ffn is not None and unit is layers[layer].get_submodule(family.ffn)
        saved = size - (0 if is_ffn else key_value) - sum(p.numel() for p in _path_of(unit))
        skippable.append(saved if index in model.config.routed_units else 0)
        per_key.append(0 if is_ffn else attention)
    vocabulary = model.get_output_embeddings().weight.numel()
    total = sum(layer_size) + vocabulary
    return Work(
        tuple(shares), tuple(skippable), total, len(layers), vocabulary, tuple(per_key), attention * len(layers)
    )


def _base_size(module: nn.Module) -> int:
    """Weights of the base model inside a module: matrices only, norms and biases cost nothing."""
    return sum(
        p.numel() for name, p in module.named_parameters()
        if p.dim() > 1 and not {"router", "skip_path", "lora_A", "lora_B"} & set(name.split("."))
    )  # fmt: skip


def _path_of(unit: nn.Module) -> list[nn.Parameter]:
    path = unit._modules.get("skip_path")
    return [] if path is None else list(path.parameters())
