"""An outside harness on the same local items and checkpoint: equal accuracy, or every difference explained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.lm_eval_tasks import TASK, compare, harness_scores, write_task
from flows.questions import Question
from skipmodel.config import SkipConfig
from skipmodel.data import Document
from skipmodel.engine.masked import open_engine
from skipmodel.evaluate import Item, score_items
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import save_base_folder

TEXTS = ["The server answers requests. ", "The log file is rotated daily. ", "設定を変更して再起動します。"] * 20


def question(index: int, text: str, choices: tuple[str, ...], answer: int = 0) -> Question:
    """One item."""
    return Question(f"q{index}", f"g{index}", "en", "all", "t", False, text, choices, answer, False, "d")


SUBJECTS, VERBS = ("server", "log", "設定", "daily", "file"), ("answers", "再起動", "is")
QUESTIONS = [
    question(i, f"{SUBJECTS[i // 3]}: {VERBS[i % 3]}", (":a log", ":the file", ":rotated", ":設定"), i % 4)
    for i in range(15)
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny model with its tokenizer."""
    folder = save_base_folder(tmp_path_factory.mktemp("base"), TEXTS)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)  # weights as they come out of the box prefer one answer always
    return model, AutoTokenizer.from_pretrained(folder)


def ours(model: Any, tokenizer: Any, questions: list[Question]) -> list[int]:
    """Answers of our scorer with everything executed."""
    engine = open_engine(SkipLayerForCausalLM.from_base(model, SkipConfig(path_rank=4, router_width=8)))
    items = [
        Item(q.item_id, Document(q.item_id, q.question, (), q.language),
             tuple(Document(q.item_id, choice, (), q.language) for choice in q.choices), q.answer)
        for q in questions
    ]  # fmt: skip
    return score_items(engine, tokenizer, items, None, kinds=("other",), force_critical=False)


def theirs(folder: Path, model: Any, tokenizer: Any, questions: list[Question]) -> list[list[float]]:
    """Scores of the harness; its own libraries warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return harness_scores(write_task(folder, questions), model, tokenizer)


@pytest.mark.slow
def test_harness_and_scorer_agree(checkpoint: tuple[Any, Any], tmp_path: Path) -> None:
    """The same answers, hence the same accuracy, on items whose tokens do not depend on the cut."""
    pytest.importorskip("lm_eval")
    model, tokenizer = checkpoint
    chosen = ours(model, tokenizer, QUESTIONS)

    found = compare(QUESTIONS, chosen, theirs(tmp_path, model, tokenizer, QUESTIONS), tokenizer)

    assert found.unexplained == ()
    assert found.n == 15
    assert found.accuracy == found.accuracy_harness
    assert found.n_same_answer == 15
    assert len(set(chosen)) > 1


def test_the_task_is_local_and_names_its_split(tmp_path: Path) -> None:
    """The harness reads one file below the folder, keeps its cache there, and scores per byte without a delimiter."""
    task = yaml.safe_load(write_task(tmp_path, QUESTIONS).read_text("utf-8"))

    assert task["task"] == TASK
    assert task["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / f"{TASK}.jsonl")}
    assert task["dataset_kwargs"]["cache_dir"].startswith(str(tmp_path))
    assert (task["target_delimiter"], task["test_split"], task["metric_list"][0]["metric"]) == ("", "test", "acc_bytes")
    assert len((tmp_path / f"{TASK}.jsonl").read_text("utf-8").splitlines()) == len(QUESTIONS)


def test_every_difference_is_explained_or_named(checkpoint: tuple[Any, Any]) -> None:
    """Other tokens, a tie, and no reason at all are told apart; agreement needs no reason."""
    _, tokenizer = checkpoint
    merged = question(0, "The ser", ("ver", "x"))
    tie, wrong, same = (question(i, "log:", (":a", ":b")) for i in (1, 2, 3))
    scores = [[-9.0, -0.1], [-2.0, -1.9999999], [-2.0, -1.0], [-1.0, -2.0]]

    found = compare([merged, tie, wrong, same], [0, 0, 0, 0], scores, tokenizer)

    assert (found.other_tokens, found.ties, found.unexplained) == (("q0",), ("q1",), ("q2",))
    assert (found.n_same_answer, found.accuracy, found.accuracy_harness) == (1, 1.0, 0.25)
    assert not found.agrees
