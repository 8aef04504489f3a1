"""SkipLayerForCausalLM: any supported causal LM with routed layers, as a Hugging Face model.

Importing this module registers the family `skiplayer`, after which `AutoModelForCausalLM.from_pretrained`
loads a checkpoint without remote code. `generate()` routes every token with the saved thresholds.

Legend: B sequences, T tokens in this call, L decoder layers, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast

from skipmodel.config import SkipConfig
from skipmodel.errors import CheckpointError, ConfigError
from skipmodel.families import decoder_layers, sublayer
from skipmodel.gate import level_to_logit, logistic_noise, threshold_to_logit
from skipmodel.kv_cache import make_dropping
from skipmodel.layer import RoutingState, make_routed
from skipmodel.router import make_router
from skipmodel.skip_path import make_path
from skipmodel.work import Work, count_work

FORMAT_VERSION = 2
"""Of checkpoints. Version 1 knew only whole layers and called its routed units routed_layers; it still loads."""


class SkipLayerConfig(PretrainedConfig):
    """Configuration of a routed model: the base model's, and where and how it skips.

    Attributes:
        text_config: Configuration of the base model.
        routed_units: Numbers of the units that tokens may skip; all others always run. For unit `layer`,
            `attention` and `ffn` the number is the layer's; for `sublayers` it is twice that, plus 1 for the
            feed-forward part.
        unit, router, router_width, path, path_rank, kv: As in `skipmodel.config.SkipConfig`.
        threshold: Execute iff execute_prob >= threshold; 0 is dense.
        threshold_offsets: Added to the threshold's logit, per unit; empty for none (`skipmodel.levels`).
        level_logits: Threshold logits of level 1/n, ... (n-1)/n; empty until calibrated (`skipmodel.levels`).
        force_first_positions: So many first positions execute everything.
        format_version: Of the checkpoint.

    Raises:
        CheckpointError: The checkpoint was written by a newer version.
    """

    model_type = "skiplayer"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - the base class declares it so

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        routed_units: Sequence[int] = (),
        unit: str = "layer",
        router: str = "calibrated",
        router_width: int = 64,
        path: str = "linear",
        path_rank: int = 192,
        kv: str = "project",
        threshold: float = 0.0,
        threshold_offsets: Sequence[float] = (),
        level_logits: Sequence[float] = (),
        force_first_positions: int = 2,
        format_version: int = FORMAT_VERSION,
        **kwargs: Any,
    ) -> None:
        if format_version > FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint of format {format_version}; this version of skipmodel reads up to {FORMAT_VERSION}; "
                "install the version that wrote it, or train again"
            )
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.routed_units = list(kwargs.pop("routed_layers", routed_units))
        self.unit, self.router, self.router_width = unit, router, router_width
        self.path, self.path_rank, self.kv = path, path_rank, kv
        self.threshold = threshold
        self.threshold_offsets = list(threshold_offsets)
        self.level_logits = list(level_logits)
        self.force_first_positions = force_first_positions
        self.format_version = FORMAT_VERSION
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
        units = self.units
        outside = [index for index in config.routed_units if not 0 <= index < len(units)]
        if outside:
            raise ConfigError(f"routed_units must lie within 0..{len(units) - 1}, got {outside}")
        if config.kv == "drop":
            self._drop_keys()
        for index, unit in enumerate(units):
            make_routed(unit, index, self.state, adds_residual=config.unit == "layer")
            if index in config.routed_units:
                self._attach(unit)
        self.set_threshold(config.threshold)
        self.post_init()

    @classmethod
    def from_base(cls, base: nn.Module, skip: SkipConfig) -> SkipLayerForCausalLM:
        """Wrap a loaded base model; its weights are shared, not copied.

        Every unit but those of the first and last few layers of the settings is routed; `skipmodel.calibrate`
        then closes those that prove indispensable.
        """
        n_layers = len(decoder_layers(base))
        first, last = skip.always_run_first, n_layers - skip.always_run_last
        if first >= last:
            raise ConfigError(
                f"no layer left to route: the model has {n_layers}, always_run_first is {skip.always_run_first} "
                f"and always_run_last {skip.always_run_last}"
            )
        n_parts = 2 if skip.unit == "sublayers" else 1
        config = SkipLayerConfig(
            text_config=copy.deepcopy(cast(Any, base).config),  # the outer one resets its attention kernel
            routed_units=list(range(first * n_parts, last * n_parts)), unit=skip.unit, router=skip.router,
            router_width=skip.router_width, path=skip.path, path_rank=skip.path_rank, kv=skip.kv,
            force_first_positions=skip.force_first_positions,
        )  # fmt: skip
        model = cls(config, lm=base)
        model.generation_config = cast(Any, base).generation_config
        return model.eval()

    def _attach(self, unit: nn.Module) -> None:
        width = self.config.text_config.hidden_size
        like = next(unit.parameters())
        router = make_router(self.config.router, width, self.config.router_width)
        path = make_path(self.config.path, width, self.config.path_rank)
        unit.add_module("router", router.to(like.device))
        unit.add_module("skip_path", path.to(like.device, like.dtype))

    def _drop_keys(self) -> None:
        if self.config.unit == "ffn":
            raise ConfigError("kv: drop needs a unit with attention; unit ffn always attends")
        n_parts = len(self.units) // len(self.layers)
        for index, layer in enumerate(self.layers):
            make_dropping(sublayer(self.lm, layer, "attention"), index * n_parts, self.state)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last."""
        return decoder_layers(self.lm)

    @property
    def units(self) -> list[nn.Module]:
        """What a token may skip, in the order of execution: layers, or their attention or feed-forward parts."""
        parts = {"layer": (), "sublayers": ("attention", "ffn")}.get(self.config.unit, (self.config.unit,))
        if not parts:
            return list(self.layers)
        return [sublayer(self.lm, layer, part) for layer in self.layers for part in parts]

    @property
    def routed(self) -> list[tuple[int, Any]]:
        """Pairs of number and module for the routed units."""
        units = self.units
        return [(index, units[index]) for index in self.config.routed_units]

    @property
    def work(self) -> Work:
        """Counted work of the units and of the whole model."""
        return count_work(self)

    def close_units(self, indices: Sequence[int]) -> None:
        """Take routers and skip paths from these units: from now on they always run."""
        units = self.units
        for index in indices:
            del units[index].router, units[index].skip_path
        self.config.routed_units = [i for i in self.config.routed_units if i not in set(indices)]

    def _routing_state(self) -> dict[str, Tensor]:
        parts = (".router.", ".skip_path.")
        return {name: tensor for name, tensor in self.state_dict().items() if any(part in name for part in parts)}

    @property
    def n_added_parameters(self) -> int:
        """Parameters of routers and skip paths: what the skip model has beyond its base."""
        return sum(tensor.numel() for tensor in self._routing_state().values())

    def base_fingerprint(self) -> str:
        """Return a hash of the base's architecture and of a few values of every weight matrix."""
        digest = hashlib.sha256(str(self.config.text_config.model_type).encode())
        added = set(self._routing_state())
        for name, tensor in self.state_dict().items():
            if name not in added:
                flat = tensor.detach().flatten()
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(flat[:: max(1, flat.numel() // 16)].float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def save_routing(self, path: Path) -> None:
        """Write routers and skip paths alone, as safetensors; the base weights are not repeated."""
        state = {name: tensor.contiguous() for name, tensor in self._routing_state().items()}
        save_file(state, path, {"format_version": str(FORMAT_VERSION), "base": self.base_fingerprint()})

    def load_routing(self, path: Path) -> None:
        """Read what `save_routing` wrote for the same base and the same routed units.

        Raises:
            CheckpointError: The file belongs to another base, another routed range or a newer version.
        """
        with safe_open(path, "pt") as file:
            written = file.metadata() or {}
            read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        version = int(written.get("format_version", 1))
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"routing checkpoint {path.name} has format {version}; this version reads up to {FORMAT_VERSION}; "
                "install the version that wrote it, or calibrate again"
            )
        own = self._routing_state()
        wrong = sorted(set(read) ^ set(own)) or sorted(n for n in own if own[n].shape != read[n].shape)
        if wrong:
            raise CheckpointError(
                f"routing checkpoint {path.name} does not fit this model: {len(wrong)} tensors differ, the first is "
                f"{wrong[0]}; use the checkpoint of the same base model and routed units"
            )
        if "base" in written and written["base"] != self.base_fingerprint():
            raise CheckpointError(
                f"routing checkpoint {path.name} was made for a base model with other weights; load the base that it "
                "was calibrated on, or calibrate again"
            )
        self.load_state_dict(read, strict=False)

    def set_threshold(self, threshold: float) -> None:
        """Set one threshold for all routed units, plus each unit's offset; saved with the model. 0 is dense."""
        self.config.threshold = float(threshold)
        self.set_threshold_logit(threshold_to_logit(threshold))

    def set_threshold_logit(self, threshold_logit: float) -> None:
        """Set the threshold as a logit, exact also where the probability saturates (not saved)."""
        offsets = self.config.threshold_offsets or [0.0] * len(self.units)
        self.state.threshold_logits = [threshold_logit + offset for offset in offsets]

    def set_level(self, level: float) -> None:
        """Set the calibrated thresholds of a level: 0 is dense, 1 skips all that guards leave free.

        Not saved: a checkpoint keeps `threshold`.

        Raises:
            ConfigError: The level is outside [0, 1], or no levels were calibrated (`skipmodel.levels`).
        """
        self.set_threshold_logit(level_to_logit(self.config.level_logits, level))

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

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, as every Hugging Face model does, but from safetensors only: a pickle can carry code."""
        kwargs["use_safetensors"] = True
        return super().from_pretrained(*args, **kwargs)

    def create_masks_for_generate(self, config: Any, **kwargs: Any) -> Any:
        """Make the masks that `generate()` hands over with a static cache, in the form of the base model's kernel.

        The configuration that transformers passes here does not know that kernel, and masks made from it would be
        None: padding would be seen, and slots of the cache that are still empty.
        """
        return create_masks_for_generate(config=self.lm.config, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the base model."""
        return cast(nn.Module, self.lm.get_input_embeddings())

    def get_output_embeddings(self) -> nn.Module:
        """Return the language-model head of the base model."""
        return cast(nn.Module, self.lm.get_output_embeddings())

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Return vocabulary logits (..., V) of the base model's final hidden states (..., D)."""
        logits: Tensor = self.get_output_embeddings()(hidden)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        force_execute: Tensor | None = None,
        execute_margin: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the base model with routed units; arguments and result are those of a causal LM.

        Args:
            input_ids: (B, T); or pass inputs_embeds.
            attention_mask: (B, S), 1 for real tokens; left padding is fine.
            position_ids: (B, T); made from the mask when absent.
            past_key_values: Cache of earlier tokens; holds every layer's K/V of every token.
            force_execute: Optional (B, T) boolean; True makes a token execute every unit.
            execute_margin: Optional (B, T), added to the router logits: a threshold per token or class.
            logits_to_keep: Compute the logits of so many last positions only, or of these; 0 for all.
            **kwargs: Passed to the base model, such as labels, use_cache or inputs_embeds.
        """
        position_ids = self.begin_pass(
            input_ids if input_ids is not None else kwargs["inputs_embeds"], attention_mask, position_ids,
            past_key_values, force_execute=force_execute, execute_margin=execute_margin,
        )  # fmt: skip
        return cast(
            CausalLMOutputWithPast,
            self.lm(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                past_key_values=past_key_values, logits_to_keep=logits_to_keep, **kwargs,
            ),
        )  # fmt: skip

    def begin_pass(
        self, tokens: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, past_key_values: Any, *,
        force_execute: Tensor | None = None, execute_margin: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Prepare the routing state for one pass over these tokens; return their positions (B or 1, T)."""
        n_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = _positions(tokens, attention_mask, n_past)
        state = self.state
        if self._mode_is_set is False:
            state.mode = "hard"
        forced_BT = (position_ids < self.config.force_first_positions).expand(tokens.shape[0], -1)
        state.force_execute_BT = forced_BT if force_execute is None else forced_BT | force_execute
        state.margin_BT = execute_margin
        state.alive_BT = None
        state.noise_LBT = state.given_noise_LBT
        if state.mode == "train" and state.gumbel_scale > 0 and state.noise_LBT is None:
            state.noise_LBT = logistic_noise((len(self.units), *tokens.shape[:2]), state.generator)
        state.gates_BT.clear()
        state.logits_BT.clear()
        return position_ids


def _positions(tokens: Tensor, attention_mask: Tensor | None, n_past: int) -> Tensor:
    n_tokens = tokens.shape[1]
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(n_past, n_past + n_tokens, device=tokens.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -n_tokens:]


AutoConfig.register("skiplayer", SkipLayerConfig)
AutoModelForCausalLM.register(SkipLayerConfig, SkipLayerForCausalLM)
