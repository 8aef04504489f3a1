"""`python -m skipmodel bench` on a saved checkpoint: the document, the exit codes, the messages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skipmodel import __main__ as command_line
from skipmodel.bench import grid
from skipmodel.bench.command import add_arguments, checkpoint_subject, config_of
from skipmodel.bench.config import BenchConfig
from skipmodel.bench.document import check
from skipmodel.config import SkipConfig
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import save_base_folder


def _interrupted_in_cell(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    real, calls = grid.time_cell, []

    def time_cell(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SkipLayer model with its tokenizer, and documents.jsonl beside it."""
    folder = tmp_path_factory.mktemp("bench")
    text = "The server answers every request in turn. "
    base = save_base_folder(folder / "base", [text])
    skip = SkipConfig(path_rank=4, always_run_first=1, always_run_last=1)
    model = SkipLayerForCausalLM.from_base(AutoModelForCausalLM.from_pretrained(base), skip)
    model.set_threshold(0.5)
    model.save_pretrained(folder / "skiplayer")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "skiplayer")
    row = {"document_id": "d", "text": text * 20, "spans": [], "language": "en", "split": "validation"}
    (folder / "documents.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    return folder


def _arguments(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return ["bench", "--model", str(checkpoint / "skiplayer"), "--out", str(out), "--batches", "1", "--prompts", "8",
            "--output-tokens", "4", "--pairs", "2", "--skip-rates", "0.1,0.3", *more]  # fmt: skip


def test_the_command_writes_a_valid_document(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real text, learned routing, natural length; the last line of the output is one JSON summary."""
    out = tmp_path / "bench.json"
    documents = str(checkpoint / "documents.jsonl")
    code = command_line.main(_arguments(checkpoint, out, "--documents", documents, "--threshold", "0.5", "--phases",
                                        "decode", "--natural-tokens", "6", "--dtypes", "float32,bfloat16"))  # fmt: skip
    document = json.loads(out.read_text("utf-8"))
    check(document)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert code == 0
    assert [(row["dtype"], row["routing"]) for row in document["rows"]] == [
        (dtype, routing) for dtype in ("float32", "bfloat16") for routing in ("trained", "random", "random")
    ]
    assert [view["n_requests"] for view in document["natural"]] == [2, 2]
    assert document["model"] | {"n_layers": 0, "n_routed": 0} == {
        "name": "skiplayer", "family": "llama", "n_layers": 0, "n_routed": 0, "threshold": 0.5, "level": None,
        "real_text": True,
    }  # fmt: skip
    assert len(printed["rows"]) == len(document["rows"])


def test_the_command_ends_with_130_when_interrupted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished cells are in the file, and the exit code is that of Ctrl-C."""
    _interrupted_in_cell(monkeypatch, 2)
    out = tmp_path / "bench.json"
    code = command_line.main(_arguments(checkpoint, out, "--no-rule", "--phases", "decode"))
    document = json.loads(out.read_text("utf-8"))

    assert code == 130
    assert (document["interrupted"], len(document["rows"])) == (True, 1)
    assert "interrupted" in capsys.readouterr().err


def test_a_warning_of_full_memory_goes_to_standard_error(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command goes on with half the batch, says so, and ends well."""
    real = grid.time_cell

    def time_cell(engine: Any, load: Any, **options: Any) -> Any:
        if load.batch == 2:
            raise MemoryError
        return real(engine, load, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)
    arguments = _arguments(checkpoint, tmp_path / "bench.json", "--no-rule", "--phases", "prefill")
    arguments[arguments.index("--batches") + 1] = "2"

    assert command_line.main(arguments) == 0
    assert "warning: prefill, prompt 8: out of memory at batch 2, trying 1" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "told"), [
    (("--threshold", "0.5", "--level", "0.5"), "--threshold or --level, got both"),
    (("--level", "0.5"), "this model has no levels"),
    (("--pairs", "1"), "--pairs: expected 2 or more"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    """Exit code 2 and one message."""
    assert command_line.main(_arguments(checkpoint, tmp_path / "bench.json", *more)) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told_before_the_timing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody should lose an hour of timing to a mistyped path."""
    assert command_line.main(_arguments(checkpoint, tmp_path / "none" / "bench.json")) == 2
    assert "--out: expected a file in an existing folder" in capsys.readouterr().err


def test_the_defaults_of_the_command_are_those_of_the_config() -> None:
    """Two places, one grid."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    assert config_of(parser.parse_args([])) == BenchConfig()


def test_a_checkpoint_is_opened_in_the_asked_dtype_with_exact_routers(checkpoint: Path) -> None:
    """bfloat16 comes from the saved weights, not by way of another rounding; routers stay in float32."""
    subject = checkpoint_subject(checkpoint / "skiplayer", threshold=0.5)
    own, half, again = subject.open(None), subject.open("bfloat16"), subject.open("float32")

    assert (own.dtype, half.dtype, again.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    for (_, one), (_, other) in zip(own.routed, half.routed, strict=True):
        for mine, theirs in zip(one.router.parameters(), other.router.parameters(), strict=True):
            assert torch.equal(mine, theirs)
