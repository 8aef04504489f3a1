"""Settings of the from-scratch experiment; one source for the command line and the result file. Without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from skipmodel.errors import ConfigError


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class ScratchConfig:
    """Size of the nets, length of the training and number of seeds; `setting_help` says what each field means."""

    layers: int = _setting(8, "layers of the SkipLayer net and of the full-depth dense net")
    density: float = _setting(0.5, "share of tokens that each layer should execute (P of the paper)")
    width: int = _setting(64, "hidden width")
    heads: int = _setting(4, "attention heads; every head has its own keys and values")
    ffn_width: int = _setting(340, "width of the gated feed-forward part; 16/3 of the width costs what 8x ungated does")
    tokenizer_vocab: int = _setting(1024, "entries of the byte-level BPE trained on the training documents")
    block_tokens: int = _setting(128, "tokens in a training and validation block")
    batch_blocks: int = _setting(4, "blocks in one optimiser step")
    steps: int = _setting(800, "optimiser steps of every net")
    learning_rate: float = _setting(6e-3, "peak learning rate of AdamW, the same for all nets")
    density_weight: float = _setting(0.1, "weight of the squared density loss, summed over layers")
    gumbel_scale: float = _setting(1.0, "scale of the Gumbel noise in training; 1 is the paper's")
    temperature: float = _setting(1.0, "temperature of the soft backward pass; the sources on the paper name none")
    validation_tokens: int = _setting(16384, "validation tokens that every net is scored on")
    seeds: int = _setting(3, "repetitions, each with its own start weights and data order")
    first_seed: int = _setting(0, "number of the first seed")
    confidence: float = _setting(0.95, "two-sided confidence of the t intervals over seeds")

    def __post_init__(self) -> None:
        for name in ("heads", "ffn_width", "batch_blocks", "steps", "validation_tokens"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("layers", self.layers >= 2, "at least 2")
        self._check("block_tokens", self.block_tokens >= 8, "at least 8")
        self._check("tokenizer_vocab", self.tokenizer_vocab >= 258, "at least 258, 256 bytes and more")
        self._check("seeds", self.seeds >= 2, "at least 2, or there is no spread to judge by")
        self._check("first_seed", self.first_seed >= 0, "0 or more")
        for name in ("learning_rate", "temperature"):
            self._check(name, getattr(self, name) > 0, "above 0")
        for name in ("density_weight", "gumbel_scale"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("density", "confidence"):
            self._check(name, 0 < getattr(self, name) < 1, "within (0, 1)")
        self._check("width", self.width % (2 * self.heads) == 0, f"a multiple of twice the heads, {2 * self.heads}")
        depth = self.layers * self.density
        self._check("density", abs(depth - round(depth)) < 1e-9 and depth >= 1,
                    f"such that layers * density is a whole number, with {self.layers} layers")  # fmt: skip

    def _check(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ConfigError(
                f"--{name.replace('_', '-')} (scratch) must be {expected}, got {getattr(self, name)!r}; change it"
            )

    @property
    def effective_layers(self) -> int:
        """Layers of the dense net with the depth that a token of the SkipLayer net should execute."""
        return round(self.layers * self.density)


def setting_help() -> dict[str, tuple[Any, str]]:
    """Return default and meaning of every setting, by name."""
    return {item.name: (item.default, item.metadata["help"]) for item in fields(ScratchConfig)}
