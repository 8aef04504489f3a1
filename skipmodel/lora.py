"""LoRA on the base model through peft: put in, switched off for the teacher, merged at the end.

Legend: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Lora:
    """LoRA matrices on every linear map of a causal LM's decoder, in place; the base weights are frozen.

    Args:
        model: Changed in place until `merge`.
        rank: Rank, and scale: the update is (A x) B without further factor.
        seed: Seed of the A matrices; B starts at 0, so that nothing changes at first.
    """

    def __init__(self, model: nn.Module, rank: int, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
        from transformers.pytorch_utils import Conv1D

        self.model = model
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        torch.manual_seed(seed)
        names = _linear_maps(model)
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=names, task_type="CAUSAL_LM",
            fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
        )  # fmt: skip
        inject_adapter_in_model(config, model)
        self.layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
        self.parameters = [p for name, p in model.named_parameters() if "lora_" in name]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()  # Adam's small steps vanish in bfloat16
            parameter.requires_grad_(True)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run the base as it was before, inside the block."""
        for layer in self.layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def merge(self) -> None:
        """Add the matrices to the weights and put the original modules back."""
        for name, layer in self.layers.items():
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config


def _linear_maps(model: nn.Module) -> list[str]:
    """Return the names of all linear maps inside decoder layers, routers and skip paths left out."""
    from transformers.pytorch_utils import Conv1D

    from skipmodel.families import decoder_layers

    inside = {id(m) for m in decoder_layers(model).modules() if isinstance(m, nn.Linear | Conv1D)}
    return [
        name for name, module in model.named_modules()
        if id(module) in inside and not {"router", "skip_path"} & set(name.split("."))
    ]  # fmt: skip
