"""SkipLayerForCausalLM: any supported causal LM with routed layers, as a Hugging Face model.

Importing this module registers the family `skiplayer`, after which `AutoModelForCausalLM.from_pretrained`
loads a checkpoint without remote code. `generate()` routes every token with the saved thresholds.

Legend: B sequences, T tokens in this call, L decoder layers, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from skipmodel.config import SkipConfig
from skipmodel.errors import CheckpointError, ConfigError
from skipmodel.families import decoder_layers
from skipmodel.gate import threshold_to_logit
from skipmodel.layer import RoutingState, make_routed
from skipmodel.router import TokenRouter
from skipmodel.skip_path import IdentitySkipPath, LinearSkipPath


class SkipLayerConfig(PretrainedConfig):
    """Configuration of a routed model: the base model's, and where and how it skips.

    Attributes:
        text_config: Configuration of the base model.
        routed_layers: Indices of the layers that tokens may skip; all others always run.
        path, path_rank: Kind and rank of the skip path.
        threshold: Execute iff execute_prob >= threshold; 0 is dense.
        force_first_positions: So many first positions execute everything.
    """

    model_type = "skiplayer"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        routed_layers: Sequence[int] = (),
        path: str = "linear",
        path_rank: int = 64,
        threshold: float = 0.0,
        force_first_positions: int = 2,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.routed_layers = list(routed_layers)
        self.path = path
        self.path_rank = path_rank
        self.threshold = threshold
        self.force_first_positions = force_first_positions
        super().__init__(**kwargs)
        if text_config is not None:
            self.tie_word_embeddings = bool(getattr(text_config, "tie_word_embeddings", False))


class SkipLayerForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM whose tokens may skip the routed layers. With threshold 0 it is the base model, exactly."""

    config_class = SkipLayerConfig
    base_model_prefix = "lm"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = {"router"}  # noqa: RUF012 - one rounding step near the threshold flips a decision

    def __init__(self, config: SkipLayerConfig, lm: nn.Module | None = None) -> None:
        super().__init__(config)
        base: Any = AutoModelForCausalLM.from_config(config.text_config) if lm is None else lm
        self.lm = base
        self.state = RoutingState()
        self._tied_weights_keys = {
            f"lm.{target}": f"lm.{source}" for target, source in (base._tied_weights_keys or {}).items()
        }
        layers = decoder_layers(base)
        outside = [index for index in config.routed_layers if not 0 <= index < len(layers)]
        if outside:
            raise ConfigError(f"routed_layers must lie within 0..{len(layers) - 1}, got {outside}")
        for index, layer in enumerate(layers):
            make_routed(layer, index, self.state)
            if index in config.routed_layers:
                self._attach(layer)
        self.set_threshold(config.threshold)
        self.post_init()

    @classmethod
    def from_base(cls, base: nn.Module, skip: SkipConfig) -> SkipLayerForCausalLM:
        """Wrap a loaded base model; its weights are shared, not copied.

        Every layer but the first and last few of the settings is routed; `skipmodel.calibrate` then closes
        those that prove indispensable.
        """
        base_config = cast(Any, base).config
        n_layers = len(decoder_layers(base))
        routed = range(skip.always_run_first, n_layers - skip.always_run_last)
        if len(routed) == 0:
            raise ConfigError(
                f"no layer left to route: the model has {n_layers}, always_run_first is {skip.always_run_first} "
                f"and always_run_last {skip.always_run_last}"
            )
        config = SkipLayerConfig(
            text_config=copy.deepcopy(base_config),  # the outer one resets its attention kernel
            routed_layers=list(routed), path=skip.path, path_rank=skip.path_rank,
            force_first_positions=skip.force_first_positions,
        )  # fmt: skip
        model = cls(config, lm=base)
        model.generation_config = cast(Any, base).generation_config
        return model.eval()

    def _attach(self, layer: nn.Module) -> None:
        width = self.config.text_config.hidden_size
        rank = min(self.config.path_rank, width)
        path = LinearSkipPath(width, rank) if self.config.path == "linear" else IdentitySkipPath()
        layer.add_module("router", TokenRouter(width))
        layer.add_module("skip_path", path.to(next(layer.parameters()).dtype))

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last."""
        return decoder_layers(self.lm)

    @property
    def routed(self) -> list[tuple[int, Any]]:
        """Pairs of index and layer for the routed layers."""
        return [(index, self.layers[index]) for index in self.config.routed_layers]

    def close_layers(self, indices: Sequence[int]) -> None:
        """Take routers and skip paths from these layers: from now on they always run."""
        for index in indices:
            del self.layers[index].router, self.layers[index].skip_path
        self.config.routed_layers = [i for i in self.config.routed_layers if i not in set(indices)]

    def _routing_state(self) -> dict[str, Tensor]:
        parts = (".router.", ".skip_path.")
        return {name: tensor for name, tensor in self.state_dict().items() if any(part in name for part in parts)}

    @property
    def n_added_parameters(self) -> int:
        """Parameters of routers and skip paths: what the skip model has beyond its base."""
        return sum(tensor.numel() for tensor in self._routing_state().values())

    def save_routing(self, path: Path) -> None:
        """Write routers and skip paths alone, as safetensors; the base weights are not repeated."""
        save_file({name: tensor.contiguous() for name, tensor in self._routing_state().items()}, path)

    def load_routing(self, path: Path) -> None:
        """Read what `save_routing` wrote for the same base and the same routed layers.

        Raises:
            CheckpointError: The file belongs to another model or another routed range.
        """
        read = load_file(path)
        own = self._routing_state()
        wrong = sorted(set(read) ^ set(own)) or sorted(n for n in own if own[n].shape != read[n].shape)
        if wrong:
            raise CheckpointError(
                f"routing checkpoint {path.name} does not fit this model: {len(wrong)} tensors differ, the first is "
                f"{wrong[0]}; use the checkpoint of the same base model and routed layers"
            )
        self.load_state_dict(read, strict=False)

    def set_threshold(self, threshold: float) -> None:
        """Set the threshold of every routed layer; saved with the model. 0 executes everything."""
        self.config.threshold = float(threshold)
        self.state.threshold_logits = [threshold_to_logit(threshold)] * len(self.layers)

    def set_threshold_logit(self, threshold_logit: float) -> None:
        """Set the threshold as a logit, exact also where the probability saturates (not saved)."""
        self.state.threshold_logits = [threshold_logit] * len(self.layers)

    @contextlib.contextmanager
    def routing(self, mode: str, **fields: Any) -> Iterator[RoutingState]:
        """Set mode and fields of the routing state for the passes inside the block, then restore them."""
        changes = {"mode": mode, **fields}
        before = {name: getattr(self.state, name) for name in changes}
        for name, value in changes.items():
            setattr(self.state, name, value)
        was_set, self._mode_is_set = self._mode_is_set, True
        try:
            yield self.state
        finally:
            self._mode_is_set = was_set
            for name, value in before.items():
                setattr(self.state, name, value)

    _mode_is_set = False

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the base model."""
        return cast(nn.Module, self.lm.get_input_embeddings())

    def get_output_embeddings(self) -> nn.Module:
        """Return the language-model head of the base model."""
        return cast(nn.Module, self.lm.get_output_embeddings())

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        force_execute: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the base model with routed layers; arguments and result are those of a causal LM.

        Args:
            input_ids: (B, T); or pass inputs_embeds.
            attention_mask: (B, S), 1 for real tokens; left padding is fine.
            position_ids: (B, T); made from the mask when absent.
            past_key_values: Cache of earlier tokens; holds every layer's K/V of every token.
            force_execute: Optional (B, T) boolean; True makes a token execute every layer.
            **kwargs: Passed to the base model, such as labels, use_cache or inputs_embeds.
        """
        tokens = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        n_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = _positions(tokens, attention_mask, n_past)
        if self._mode_is_set is False:
            self.state.mode = "hard"
        forced_BT = position_ids < self.config.force_first_positions
        forced_BT = forced_BT.expand(tokens.shape[0], -1)
        if force_execute is not None:
            forced_BT = forced_BT | force_execute
        self.state.force_execute_BT = forced_BT
        self.state.gates_BT.clear()
        self.state.logits_BT.clear()
        return cast(
            CausalLMOutputWithPast,
            self.lm(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                past_key_values=past_key_values, **kwargs,
            ),
        )  # fmt: skip


def _positions(tokens: Tensor, attention_mask: Tensor | None, n_past: int) -> Tensor:
    n_tokens = tokens.shape[1]
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(n_past, n_past + n_tokens, device=tokens.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -n_tokens:]


AutoConfig.register("skiplayer", SkipLayerConfig)
AutoModelForCausalLM.register(SkipLayerConfig, SkipLayerForCausalLM)
