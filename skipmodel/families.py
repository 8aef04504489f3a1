"""What differs between model families, in one table. Everything else treats them alike.

An unsupported family is refused by name rather than guessed at: a wrong guess about where the layers are
would skip the wrong thing without any error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from skipmodel.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its parts."""

    layers: str
    """Dotted path from the causal LM to its list of decoder layers."""
    attention: str = "self_attn"
    """Name of the attention module inside a decoder layer."""
    ffn: str | None = "mlp"
    """Name of the feed-forward module inside a decoder layer; None where it is not a module of its own."""


FAMILIES: dict[str, Family] = {
    "llama": Family("model.layers"),
    "mistral": Family("model.layers"),
    "qwen2": Family("model.layers"),
    "qwen3": Family("model.layers"),
    "gemma": Family("model.layers"),
    "gemma2": Family("model.layers"),
    "gemma3_text": Family("model.layers"),
    "gpt2": Family("transformer.h", attention="attn"),
    "gpt_neox": Family("gpt_neox.layers", attention="attention"),
    "opt": Family("model.decoder.layers", ffn=None),
}


def family_of(model_type: str) -> Family:
    """Return the facts of a family.

    Raises:
        ConfigError: The family is not in the table; the message lists those that are.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise ConfigError(
            f"base model of family {model_type!r} is not supported: skipping needs a decoder-only model with keys and "
            f"values of past tokens; supported are {', '.join(sorted(FAMILIES))}. "
            "Add a line to skipmodel/families.py and run the oracle tests to support another."
        ) from None


def decoder_layers(causal_lm: nn.Module) -> nn.ModuleList:
    """Return the decoder layers of a Hugging Face causal LM, first to last.

    Raises:
        ConfigError: The family is unknown, or the layers do not number what the configuration says.
    """
    config = cast(Any, causal_lm).config
    layers = causal_lm.get_submodule(family_of(config.model_type).layers)
    expected = config.get_text_config(decoder=True).num_hidden_layers
    if not isinstance(layers, nn.ModuleList) or len(layers) != expected:
        raise ConfigError(
            f"{config.model_type}: expected {expected} decoder layers at {family_of(config.model_type).layers!r}, "
            f"got {type(layers).__name__}; this transformers version may have moved them"
        )
    return layers


def sublayer(causal_lm: nn.Module, layer: nn.Module, part: str) -> nn.Module:
    """Return the `attention` or `ffn` module of a decoder layer.

    Raises:
        ConfigError: The family has no such module.
    """
    model_type = cast(Any, causal_lm).config.model_type
    family = family_of(model_type)
    name = family.attention if part == "attention" else family.ffn
    if name is None:
        raise ConfigError(
            f"family {model_type!r} has no {part} module that could be skipped by itself; use model.skip.unit: layer "
            "or attention"
        )
    return layer.get_submodule(name)
