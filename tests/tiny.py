"""Tiny models for tests: random weights, every supported family, routers that really decide."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from skipmodel.config import SkipConfig
from skipmodel.model import SkipLayerForCausalLM

VOCAB = 97
N_LAYERS = 6
_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4,
          "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
_GQA = _SHAPE | {"num_key_value_heads": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _GQA,
    "mistral": _GQA | {"sliding_window": None},
    "qwen2": _GQA,
    "qwen3": _GQA | {"head_dim": 8},
    "gemma": _GQA | {"head_dim": 8},
    "gemma2": _GQA | {"head_dim": 8, "attn_implementation": "eager"},
    "gemma3_text": _GQA | {"head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": N_LAYERS, "n_head": 4, "vocab_size": VOCAB, "n_positions": 64,
             "bos_token_id": 1, "eos_token_id": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neox": _SHAPE,
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4,
            "vocab_size": VOCAB, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
}  # fmt: skip
ENGINE_FAMILIES = tuple(FAMILIES)


def make_base(family: str = "llama", seed: int = 0) -> Any:
    """Return a random causal LM of a family, large enough weights to make every part matter."""
    torch.manual_seed(seed)
    options = dict(FAMILIES[family])
    attention = options.pop("attn_implementation", None)
    base: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **options), **({"attn_implementation": attention} if attention else {})
    )
    for name, parameter in base.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if "norm" in name or "ln_" in name:
            parameter.data += 1.0
    return base.eval()


def make_skip(
    family: str = "llama", seed: int = 0, path: str = "linear", *, unit: str = "layer", router: str = "calibrated",
    kv: str = "project",
) -> SkipLayerForCausalLM:  # fmt: skip
    """Return a routed model whose routers skip about half of the tokens and whose paths are not zero."""
    options: dict[str, Any] = {"unit": unit, "router": router, "path": path, "kv": kv}
    skip = SkipConfig(path_rank=4, router_width=8, always_run_first=1, always_run_last=1, **options)
    model = SkipLayerForCausalLM.from_base(make_base(family, seed), skip)
    for _, module in model.routed:
        for name, parameter in module.router.named_parameters():
            if "bias" in name:
                parameter.data.zero_()
            else:
                torch.nn.init.normal_(parameter, std=0.5)
        for parameter in module.skip_path.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.set_threshold(0.5)
    return model.eval()


def save_base_folder(
    folder: Path, texts: list[str], vocab: int = 400, hidden: int = 32, layers: int = N_LAYERS
) -> Path:
    """Write a Hugging Face folder of a tiny Llama with a byte-level BPE tokenizer trained on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    options = _GQA | {"vocab_size": len(fast), "hidden_size": hidden, "num_hidden_layers": layers}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **options))
    model.save_pretrained(folder)
    return folder


def with_prefix(tokenizer: Any) -> Any:
    """Let a copy of a tokenizer put its begin-of-sequence token in front of every sequence, as Gemma's does."""
    prefixed = copy.deepcopy(tokenizer)
    prefixed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", prefixed.bos_token_id)]
    )
    return prefixed
