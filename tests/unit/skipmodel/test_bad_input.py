"""What cannot serve is refused: one error each, that names what came, what was expected and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from skipmodel.base import check_tokenizer, load_base, load_checkpoint
from skipmodel.config import BaseConfig, SkipConfig
from skipmodel.data import Blocks, TokenizedDocument, check_vocabulary, cut, sample
from skipmodel.errors import CheckpointError, ConfigError, DataError
from skipmodel.families import FAMILIES
from skipmodel.model import FORMAT_VERSION, SkipLayerForCausalLM
from tests.tiny import VOCAB, make_base, make_skip, save_base_folder

TEXTS = ["The server keeps a connection for 15 seconds. " * 8]
KINDS = ("other",)
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer of the size of its embedding."""
    return save_base_folder(tmp_path / "base", TEXTS, vocab=300)


def load(folder: Path) -> tuple[Any, Any, dict[str, str]]:
    return load_base(BaseConfig(source=str(folder)))


def add_tokens(folder: Path, n: int) -> int:
    """Extend the tokenizer in a folder; return its new size."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(n)])
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


# --- the base model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mamba", "rwkv", "falcon_mamba", "t5", "bart", "bert"])
def test_a_family_that_cannot_be_routed_is_refused_by_name(family: str, tmp_path: Path) -> None:
    """No keys and values of past tokens, or an encoder: the message names it and all that are supported."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ConfigError, match=f"family '{family}' is not supported.*keys and values") as caught:
        load(tmp_path)
    for supported in FAMILIES:
        assert supported in str(caught.value)


def test_a_loaded_model_without_a_cache_is_refused_too() -> None:
    """Wrapping a recurrent model that was loaded elsewhere ends in the same message."""
    base: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=2, vocab_size=VOCAB, state_size=4)
    )
    with pytest.raises(ConfigError, match="family 'mamba' is not supported"):
        SkipLayerForCausalLM.from_base(base, SkipConfig(always_run_first=0, always_run_last=1))


def test_a_family_unknown_to_transformers_is_told(tmp_path: Path) -> None:
    """The message repeats the name that config.json gives and points to the setting."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(CheckpointError, match=r"nonesuch.*model\.base\.source"):
        load(tmp_path)


# --- files of weights --------------------------------------------------------------------------------------


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_in_half(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (as_pickle, r"no file named model\.safetensors"),
    "cut in half": (cut_in_half, "not fully covered"),
    "tensor missing": (lambda f: change_weights(f, lambda w: w.pop(UP)), f"{UP} is not there"),
    "other shape": (
        lambda f: change_weights(f, lambda w: w.update({UP: w[UP][:10].clone()})),
        rf"{UP} is \[10, 32\] where config.json asks for \[64, 32\]",
    ),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused(damage: str, base_folder: Path) -> None:
    """A pickle, half a file, a missing tensor or one of another shape: never a model with random parts."""
    change, message = DAMAGE[damage]
    change(base_folder)
    with pytest.raises(CheckpointError, match=message):
        load(base_folder)


# --- the tokenizer -----------------------------------------------------------------------------------------


def test_a_tokenizer_larger_than_the_embedding_is_refused(base_folder: Path) -> None:
    """Both sizes are named, and how to mend it."""
    n_rows = load(base_folder)[0].get_input_embeddings().weight.shape[0]
    n_tokens = add_tokens(base_folder, 5)
    with pytest.raises(CheckpointError, match=f"at most {n_rows} entries.*got {n_tokens}.*resize_token_embeddings"):
        load(base_folder)


def test_the_highest_id_counts_not_the_number_of_entries() -> None:
    """A tokenizer with gaps gives ids beyond its length; the last row of the embedding is still fine."""

    class Gaps:
        def __init__(self, highest: int) -> None:
            self.highest = highest

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": self.highest}

    check_tokenizer(Gaps(VOCAB - 1), make_base())
    with pytest.raises(CheckpointError, match=f"at most {VOCAB} entries.*got {VOCAB + 1}"):
        check_tokenizer(Gaps(VOCAB), make_base())


def test_a_folder_without_tokenizer_is_refused(base_folder: Path) -> None:
    """Nothing is guessed when the tokenizer files are absent."""
    for path in base_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(base_folder)


def test_a_checkpoint_with_a_foreign_tokenizer_is_refused(base_folder: Path, tmp_path: Path) -> None:
    """The check holds where checkpoints are loaded, too."""
    folder = tmp_path / "checkpoint"
    make_skip().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=f"at most {VOCAB} entries.*got {len(tokenizer)}"):
        load_checkpoint(folder)


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(base_folder: Path, tmp_path: Path) -> Path:
    """A SkipLayer checkpoint with its tokenizer."""
    base, tokenizer, _ = load(base_folder)
    model = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=4, always_run_first=1))
    model.set_threshold(0.5)
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_good_checkpoint_loads(checkpoint: Path) -> None:
    """The folder that was just written comes back with its tokenizer, in evaluation mode."""
    model, tokenizer = load_checkpoint(checkpoint)

    assert (model.config.threshold, model.training) == (0.5, False)
    assert tokenizer("server")["input_ids"]


def test_a_checkpoint_as_pickle_is_refused(checkpoint: Path) -> None:
    """Weights come as safetensors only."""
    as_pickle(checkpoint)
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load_checkpoint(checkpoint)


def test_a_checkpoint_without_its_routers_is_refused(checkpoint: Path) -> None:
    """A router left at its start would execute nearly everything and look like a very careful model."""
    change_weights(checkpoint, lambda w: [w.pop(name) for name in list(w) if ".router." in name])
    with pytest.raises(CheckpointError, match=r"router\.\w+ is not there"):
        load_checkpoint(checkpoint)


def test_a_base_model_or_an_empty_folder_is_no_checkpoint(base_folder: Path, tmp_path: Path) -> None:
    """A base model in the place of a checkpoint is named as one; so is a folder with nothing in it."""
    with pytest.raises(CheckpointError, match="expected a model of family 'skiplayer', got 'llama'"):
        load_checkpoint(base_folder)
    with pytest.raises(CheckpointError, match=r"found no config\.json"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_a_newer_version_is_refused(checkpoint: Path) -> None:
    """Its format number is named, and the one that this version reads."""
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(values | {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(CheckpointError, match=f"format {FORMAT_VERSION + 1}; .* up to {FORMAT_VERSION}"):
        load_checkpoint(checkpoint)


# --- routing checkpoints -----------------------------------------------------------------------------------


def test_routing_of_another_base_is_refused(tmp_path: Path) -> None:
    """Routers fitted to other weights have the right shapes and the wrong decisions."""
    make_skip(seed=0).save_routing(tmp_path / "routing.safetensors")
    other = make_skip(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"routing\.safetensors was made for a base model with other weights"):
        other.load_routing(tmp_path / "routing.safetensors")

    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    "options", [{"always_run_first": 2}, {"path_rank": 3}, {"router": "bottleneck"}, {"path": "identity"}]
)
def test_routing_of_another_range_or_kind_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """Another routed range, rank, router or path: the first tensor that differs is named."""
    make_skip().save_routing(tmp_path / "routing.safetensors")
    config = SkipConfig(**({"path_rank": 4, "always_run_first": 1, "always_run_last": 1} | options))
    other = SkipLayerForCausalLM.from_base(make_base(), config)
    with pytest.raises(CheckpointError, match=r"does not fit this model: \d+ tensors differ, the first is \S+\.\S+;"):
        other.load_routing(tmp_path / "routing.safetensors")


# --- the corpus --------------------------------------------------------------------------------------------


def document(n_tokens: int, name: str = "d") -> TokenizedDocument:
    return TokenizedDocument(name, list(range(n_tokens)), [0] * n_tokens, [1] * n_tokens)


@pytest.mark.parametrize(("documents", "longest"), [([], 0), ([document(3), document(31)], 31)])
def test_a_corpus_too_short_to_cut_is_refused(documents: list[TokenizedDocument], longest: int) -> None:
    """The message says how long a document must be, how many there are and how long the longest is."""
    with pytest.raises(DataError, match=f"one document of 32 tokens.* in {len(documents)} documents.* has {longest};"):
        cut(documents, 256, 0, KINDS)


def test_a_corpus_shorter_than_one_block_gives_no_training_block() -> None:
    """A piece that is long enough to be scored, but no full block to train on."""
    blocks = cut([document(40), document(90)], 128, 0, KINDS)
    with pytest.raises(DataError, match="one full block of 128 tokens, the longest of 2 has 90"):
        sample(blocks, 1000, seed=0, full_only=True)


def test_a_sample_has_at_least_one_block() -> None:
    """A budget below one block, 0 included, still takes one."""
    blocks = cut([document(64), document(64)], 32, 0, KINDS)

    assert [len(sample(blocks, budget, seed=0)) for budget in (0, 1, 32, 33)] == [1, 1, 1, 2]


@pytest.mark.parametrize(("ids", "got"), [([0, 5, VOCAB], f"0..{VOCAB}"), ([-1, 5, 6], "-1..6")])
def test_token_ids_outside_the_vocabulary_are_refused(ids: list[int], got: str) -> None:
    """The allowed range, the range that came and the first document are named."""
    good, bad = document(3, "good"), TokenizedDocument("bad", ids, [0] * 3, [1] * 3)
    blocks: Blocks = cut([good, bad], 4, 0, KINDS)
    with pytest.raises(DataError, match=rf"0\.\.{VOCAB - 1},.* got {got}, first in document 'bad'"):
        check_vocabulary(blocks, VOCAB)


def test_the_last_id_of_the_vocabulary_is_fine() -> None:
    """The largest allowed id passes, and a model reads it."""
    blocks = cut([TokenizedDocument("d", [0, VOCAB - 1], [0, 0], [1, 1])], 2, 0, KINDS)
    check_vocabulary(blocks, VOCAB)

    assert make_base()(blocks.ids_NT).logits.isfinite().all()
