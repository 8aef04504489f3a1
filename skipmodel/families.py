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
    has_engine: bool = False
    """Whether `skipmodel.engine` can execute it: RMSNorm, rotary positions, gated SiLU, no extra norms."""


FAMILIES: dict[str, Family] = {
    "llama": Family("model.layers", has_engine=True),
    "mistral": Family("model.layers", has_engine=True),
    "qwen2": Family("model.layers", has_engine=True),
    "qwen3": Family("model.layers", has_engine=True),
    "gemma": Family("model.layers"),
    "gemma2": Family("model.layers"),
    "gemma3_text": Family("model.layers"),
    "gpt2": Family("transformer.h"),
    "gpt_neox": Family("gpt_neox.layers"),
    "opt": Family("model.decoder.layers"),
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
            f"base model of family {model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}. "
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
