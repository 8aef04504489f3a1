"""The grid: what is kept, what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from skipmodel.bench import grid, rivals
from skipmodel.bench.command import run_grid
from skipmodel.bench.config import BenchConfig
from skipmodel.bench.devices import is_out_of_memory
from skipmodel.bench.document import check
from skipmodel.bench.grid import Grid, Subject
from skipmodel.bench.texts import DocumentTexts, RandomTexts, read_documents
from skipmodel.data import Document
from skipmodel.engine.executor import Engine
from skipmodel.errors import ConfigError, DataError
from skipmodel.guards import TokenSequences
from tests.tiny import VOCAB, make_skip, save_base_folder

SMALL: dict[str, Any] = {"phases": ("decode",), "batches": (1,), "prompts": (8,), "output_tokens": 4,
                         "skip_rates": (0.3,), "n_pairs": 2, "calibration_s": 0.01}  # fmt: skip
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
]


def _subject(**changes: Any) -> Subject:
    values: dict[str, Any] = {
        "name": "tiny", "open": lambda dtype: make_skip(), "texts": RandomTexts(VOCAB), "threshold_logit": None,
        "facts": {"threshold": None, "level": None}, "vocabulary": VOCAB,
    }  # fmt: skip
    return Subject(**(values | changes))


def _run(config: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    saved: list[dict[str, Any]] = []
    warnings: list[str] = []
    keep = lambda document: saved.append(json.loads(json.dumps(document)))  # noqa: E731
    document = Grid(_subject(**changes), BenchConfig(**(SMALL | config)), keep, warnings.append).run()
    check(json.loads(json.dumps(document)))
    return document, saved, warnings


# --- the grid ---------------------------------------------------------------------------------------------------


def test_every_combination_is_a_row() -> None:
    """Phases, batches, prompts, rates; a learned routing is timed beside the random ones; the document is valid."""
    grid_of = {"phases": ("prefill", "decode"), "batches": (1, 2), "prompts": (8, 12), "skip_rates": (0.0, 0.3)}
    document, saved, _ = _run(grid_of, threshold_logit=0.0)
    rows = document["rows"]
    found = {(r["phase"], r["batch"], r["prompt"], r["routing"], r["requested_skip_rate"]) for r in rows}

    assert len(rows) == len(found) == 2 * 2 * 2 * 3
    assert all(row["reason"] is None and row["n_pairs"] == 2 and row["engaged"] is not None for row in rows)
    assert document["interrupted"] is False
    assert document["calibrations"][0]["costs"]
    assert [row["name"] for row in document["rivals"]] == ["generate", "torch_compile"]
    assert [len(one["rows"]) for one in saved][1:25] == list(range(1, 25))


def test_rows_at_once_repeat_only_what_they_change() -> None:
    """Gathered prefill is timed for each number of rows; decoding one sequence only once."""
    document, _, _ = _run({"phases": ("prefill", "decode"), "group_rows": (0, 16), "use_rule": False})

    assert [(row["phase"], row["group_rows"]) for row in document["rows"]] == [("prefill", 0), ("decode", 0),
                                                                             ("prefill", 16)]  # fmt: skip
    assert {row["speedup_with_rule"] for row in document["rows"]} == {None}
    assert document["calibrations"] == []


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "python", "cpu"])
def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Batch 4 does not fit, 2 does: a warning, and a row with both numbers."""
    real = grid.time_cell

    def time_cell(engine: Any, load: Any, **options: Any) -> Any:
        if load.batch > 2:
            raise error
        return real(engine, load, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)
    document, _, warnings = _run({"batches": (4,), "use_rule": False})
    (row,) = document["rows"]

    assert (row["requested_batch"], row["batch"], row["note"], row["reason"]) == (4, 2, "batch_halved", None)
    assert row["speedup"] is not None
    assert warnings == document["warnings"] == ["decode, prompt 8: out of memory at batch 4, trying 2"]


def test_out_of_memory_at_batch_one_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing left to halve: the row stays without a timing, the grid goes on."""
    real = grid.time_cell

    def time_cell(engine: Any, load: Any, **options: Any) -> Any:
        if load.prompt_tokens == 8:
            raise MemoryError
        return real(engine, load, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)
    document, _, warnings = _run({"batches": (2,), "prompts": (8, 12), "use_rule": False})

    assert [row["reason"] for row in document["rows"]] == ["out_of_memory", None]
    assert document["rows"][0]["speedup"] is None
    assert len(warnings) == 2


def test_another_error_is_not_taken_for_a_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect stays a traceback."""
    monkeypatch.setattr(grid, "time_cell", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _run({"use_rule": False})

    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def _interrupted_in_cell(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    real, calls = grid.time_cell, []

    def time_cell(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)


def test_an_interruption_keeps_finished_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C in the third cell: two rows in a valid file that says so, and the interruption goes on."""
    _interrupted_in_cell(monkeypatch, 3)
    out = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        run_grid(_subject(), BenchConfig(**(SMALL | {"skip_rates": (0.0, 0.1, 0.2, 0.3)})), out)
    document = json.loads(out.read_text("utf-8"))
    check(document)

    assert document["interrupted"] is True
    assert [row["requested_skip_rate"] for row in document["rows"]] == [0.0, 0.1]
    assert list(tmp_path.iterdir()) == [out]


def test_a_cell_that_would_outlast_its_budget_is_left_out() -> None:
    """The prediction and the budget are in the row; nothing was timed."""
    document, _, _ = _run({"cell_budget_s": 1e-9, "natural_tokens": 0})
    (row,) = document["rows"]

    assert (row["reason"], row["speedup"], row["n_pairs"]) == ("over_budget", None, 0)
    assert row["reason_params"]["predicted_s"] > row["reason_params"]["budget_s"]


def test_a_small_budget_ends_with_two_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least two pairs are timed whatever the budget, once a single run is predicted to fit."""
    monkeypatch.setattr("skipmodel.bench.predict.Predictor.run_s", lambda *_: 0.0)
    document, _, _ = _run({"n_pairs": 9, "cell_budget_s": 1e-9})

    assert [row["n_pairs"] for row in document["rows"]] == [2]


def test_reasons_of_rates_and_texts(tmp_path: Path) -> None:
    """More than the routed layers can skip, and documents shorter than the prompt: rows with their reasons."""
    tokenizer = AutoTokenizer.from_pretrained(save_base_folder(tmp_path, ["a few words only"]))
    texts = DocumentTexts([Document("d", "a few words only " * 3)], tokenizer)
    rates, _, _ = _run({"skip_rates": (0.9,)})
    short, _, warnings = _run({"prompts": (500,)}, texts=texts)

    assert [row["reason"] for row in rates["rows"]] == ["rate_out_of_reach"]
    assert "lower it" in rates["rows"][0]["reason_params"]["told"]
    assert [row["reason"] for row in short["rows"]] == ["no_text"]
    assert any(warning.startswith("rivals: ") for warning in warnings)


def test_weights_that_an_engine_does_not_have_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 that cannot be opened gives rows with that reason; the float rows are there."""
    real = grid.open_engine

    def open_engine(model: Any, weights: str | None = None) -> Any:
        if weights == "int8":
            raise ConfigError("no int8 here")
        return real(model)

    monkeypatch.setattr(grid, "open_engine", open_engine)
    document, _, warnings = _run({"weights": ("float", "int8")})

    assert [(row["weights"], row["reason"]) for row in document["rows"]] == [("float", None), ("int8", "not_supported")]
    assert warnings == ["weights int8: no int8 here"]


def test_a_calibration_is_kept_and_found_again(tmp_path: Path) -> None:
    """The second run takes the first one's; on a damaged fingerprint it measures anew and says why."""
    documents = []
    for number in range(3):
        saved: list[dict[str, Any]] = []
        documents.append(Grid(_subject(), BenchConfig(**SMALL), saved.append, print, tmp_path).run())
        (path,) = tmp_path.iterdir()
        if number == 1:
            values = json.loads(path.read_text("utf-8"))
            path.write_text(json.dumps(values | {"hardware": values["hardware"] | {"n_threads": 99}}), "utf-8")
    told = [document["calibrations"][0] for document in documents]

    assert [one["taken_from_file"] for one in told] == [False, True, False]
    assert told[1]["costs"] == told[0]["costs"]
    assert "n_threads 99 then" in told[2]["reason"]


@pytest.mark.parametrize("change", [{"phases": ("train",)}, {"batches": (0,)}, {"prompts": ()}, {"skip_rates": (1.0,)},
                                    {"n_pairs": 1}, {"cell_budget_s": 0.0}, {"dtypes": ("float8",)}])  # fmt: skip
def test_a_grid_that_cannot_be_measured_is_refused(change: dict[str, Any]) -> None:
    """The option is named with what it takes."""
    with pytest.raises(ConfigError, match=r"bench: --.*: expected .*; correct it"):
        BenchConfig(**change)


# --- texts ------------------------------------------------------------------------------------------------------


def test_documents_become_batches_with_guards(tmp_path: Path) -> None:
    """Full blocks, taken again when they run out; listed sequences are marked as a stream would see them."""
    tokenizer = AutoTokenizer.from_pretrained(save_base_folder(tmp_path, ["one two three four five six"]))
    (one,) = tokenizer(" three", add_special_tokens=False)["input_ids"][:1]
    finder = TokenSequences([[one]])
    batches = DocumentTexts([Document("d", "one two three four " * 40)], tokenizer, finder).batches(2, 12, 30)

    assert [batch.ids_BT.shape for batch in batches] == [(2, 12)] * 30
    for batch in batches:
        assert batch.forced_BT is not None
        assert torch.equal(batch.forced_BT, batch.ids_BT == one)
    assert any(bool(batch.forced_BT.any()) for batch in batches if batch.forced_BT is not None)


@pytest.mark.parametrize(
    "content", [None, "not json", '{"split": "train", "document_id": "a", "text": "x", "language": ""}']
)
def test_documents_that_cannot_serve_are_told(tmp_path: Path, content: str | None) -> None:
    """No file, no JSON, no validation document."""
    path = tmp_path / "documents.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"--documents documents\.jsonl: expected"):
        read_documents(path)


# --- rivals -----------------------------------------------------------------------------------------------------


def test_rivals_decode_as_many_tokens_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """generate() and our loop for a fixed length, in turn; a compiler that fails is a reason, not an error."""

    def no_compiler(function: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: no working compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = make_skip()
    ids_BT = torch.randint(3, VOCAB, (2, 8))
    plain, compiled = rivals.compare(model, Engine(model), ids_BT, 5, n_pairs=3, budget_s=600, with_compiled=True)

    assert (plain["batch"], plain["prompt"], plain["output_tokens"], plain["n_pairs"]) == (2, 8, 5, 3)
    assert plain["low"] <= plain["ratio"] <= plain["high"]
    assert compiled["reason"] == "RuntimeError: InvalidCxxCompiler: no working compiler"
    assert (compiled["ratio"], compiled["rival_s"]) == (None, [])


def test_a_compiled_rival_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled forward pass is used inside the timing and gone afterwards."""
    calls = []

    def compile_it(function: Any) -> Any:
        def compiled(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            return function(*arguments, **options)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_it)
    model = make_skip()
    rows = rivals.compare(model, Engine(model), torch.randint(3, VOCAB, (1, 8)), 4, n_pairs=2, budget_s=600,
                          with_compiled=True)  # fmt: skip

    assert rows[1]["reason"] is None
    assert rows[1]["ratio"] > 0
    assert calls
    assert "forward" not in vars(model.lm)
