"""Cross-check: an outside harness (lm-eval) answers the same items with the same checkpoint.

The items are written as a YAML task that reads a local file, so nothing is fetched. Our score, log-likelihood per
byte, is the harness's metric `acc_bytes`. Two things may still differ, and both are found per item: the harness
tokenises question and answer in one piece where we join two, and float sums in another order break ties
differently. An item that differs for no such reason is a defect, here or there.

    python -m flows.lm_eval_tasks runs/latest -c poc.yaml
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.errors import PocError
from flows.questions import Question
from flows.store import read_json

TASK = "skip_poc_items"
TIE_NATS_PER_BYTE = 1e-5
"""Two best answers closer than this may be swapped by rounding."""


@dataclass(frozen=True)
class CrossCheck:
    """Accuracy of our scorer and of the harness on the same items, and what explains each difference."""

    n: int
    accuracy: float
    accuracy_harness: float
    n_same_answer: int
    other_tokens: tuple[str, ...]
    """Items answered differently whose text is cut into other tokens in one piece than in two."""
    ties: tuple[str, ...]
    """Items answered differently whose two best answers score the same to rounding."""
    unexplained: tuple[str, ...]
    """Items answered differently for no reason known: a defect."""

    @property
    def agrees(self) -> bool:
        """Whether every difference is explained; without any, both accuracies are equal."""
        return not self.unexplained


def write_task(folder: Path, questions: Sequence[Question], name: str = TASK) -> Path:
    """Write the items as a task of the harness: NAME.yaml and NAME.jsonl. Return the YAML file.

    The split has to be named, since a bare file lands in the training split; the delimiter is empty, since a
    question is directly followed by its answer; the cache stays in the folder, since the text is in-house.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = (folder / f"{name}.jsonl").resolve()
    rows = [{"item_id": q.item_id, "question": q.question, "choices": list(q.choices), "answer": q.answer}
            for q in questions]  # fmt: skip
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(data.parent / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc_bytes", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task, allow_unicode=True, sort_keys=False), "utf-8")
    return path


def harness_scores(task: Path, model: Any, tokenizer: Any) -> list[list[float]]:
    """Let the harness score a written task. Return log-likelihoods, one list of choices per item, in file order.

    Raises:
        PocError: lm-eval is not installed.
    """
    try:
        harness = importlib.import_module("lm_eval")
        tasks = importlib.import_module("lm_eval.tasks")
        huggingface = importlib.import_module("lm_eval.models.huggingface")
    except ImportError as error:
        raise PocError("lm-eval is not installed", where="the Python environment",
                       todo="pip install the extra `dev`, which brings it") from error  # fmt: skip
    found = harness.simple_evaluate(
        model=huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=[task.stem],
        task_manager=tasks.TaskManager(include_path=str(task.parent), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"][task.stem], key=lambda sample: int(sample["doc_id"]))
    return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]


def compare(
    questions: Sequence[Question], chosen: Sequence[int], scores: Sequence[Sequence[float]], tokenizer: Any
) -> CrossCheck:
    """Hold our answers against the harness's log-likelihoods, item by item."""
    theirs: list[int] = []
    reasons: dict[str, list[str]] = {"other_tokens": [], "ties": [], "unexplained": []}
    for question, ours, row in zip(questions, chosen, scores, strict=True):
        per_byte = [score / max(1, len(text.encode())) for score, text in zip(row, question.choices, strict=True)]
        best = max(range(len(per_byte)), key=per_byte.__getitem__)
        theirs.append(best)
        if best == ours:
            continue
        if any(_is_cut_otherwise(question.question, choice, tokenizer) for choice in question.choices):
            reasons["other_tokens"].append(question.item_id)
        elif per_byte[best] - per_byte[ours] < TIE_NATS_PER_BYTE:
            reasons["ties"].append(question.item_id)
        else:
            reasons["unexplained"].append(question.item_id)
    n = len(questions)
    right = [[choice == q.answer for q, choice in zip(questions, part, strict=True)] for part in (chosen, theirs)]
    return CrossCheck(
        n=n, accuracy=sum(right[0]) / n, accuracy_harness=sum(right[1]) / n,
        n_same_answer=sum(one == other for one, other in zip(chosen, theirs, strict=True)),
        **{name: tuple(ids) for name, ids in reasons.items()},
    )  # fmt: skip


def _is_cut_otherwise(question: str, choice: str, tokenizer: Any) -> bool:
    """Whether question and answer in one piece give other tokens than the two joined, or a blank moves over."""
    one, two, both = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, choice, question + choice)
    )
    return bool(both != one + two) or question != question.rstrip()


def cross_check(run_dir: Path, settings_path: Path, folder: Path) -> CrossCheck:
    """Check the dense tuned model of a finished run on the items of its confirmatory test.

    Args:
        run_dir: A run folder whose confirmation is finished.
        settings_path: Its settings file, which names the questions.
        folder: Where the task is written.

    Raises:
        PocError: The run has no confirmation or no question items, or lm-eval is not installed.
    """
    from flows.decide import open_bench, registered_plan

    stored = read_json(run_dir / "result.json")
    bench = open_bench(run_dir, stored, registered_plan(stored, run_dir)[0], settings_path, None)
    questions = [question for question, _ in bench.items("test")] if "confirm" in bench.stages else []
    if not questions:
        raise PocError("this run asked no question on its test split", where=str(run_dir),
                       todo="take a run with corpus.questions and a chosen threshold")  # fmt: skip
    task = write_task(folder, questions)
    scores = harness_scores(task, bench.load_dense(), bench.tokenizer)
    arm = read_json(bench.folder("confirm") / "arm-dense_tuned.json")
    was_right = {item["item_id"]: item["dense_correct"] for item in arm["items"]}
    engine_choices = _stored_choices(questions, scores, was_right)
    return compare(questions, engine_choices, scores, bench.tokenizer)


def _stored_choices(
    questions: Sequence[Question], scores: Sequence[Sequence[float]], was_right: dict[str, bool]
) -> list[int]:
    """Our stored answers. Records keep only right or wrong, so of the wrong answers the harness's best is taken."""
    chosen = []
    for question, row in zip(questions, scores, strict=True):
        wrong = [index for index in range(len(row)) if index != question.answer]
        per_byte = [score / max(1, len(text.encode())) for score, text in zip(row, question.choices, strict=True)]
        best_wrong = max(wrong, key=per_byte.__getitem__)
        chosen.append(question.answer if was_right[question.item_id] else best_wrong)
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cross-check; exit code 0 when every difference is explained."""
    parser = argparse.ArgumentParser(description="answer the test items of a run again with lm-eval")
    parser.add_argument("run_dir", type=Path, help="run folder, such as runs/latest")
    parser.add_argument("-c", "--config", type=Path, required=True, help="settings file of the run")
    parser.add_argument("--out", type=Path, help="folder of the written task; default: lm-eval in the run folder")
    arguments = parser.parse_args(argv)
    try:
        found = cross_check(arguments.run_dir, arguments.config, arguments.out or arguments.run_dir / "lm-eval")
    except PocError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(found) | {"agrees": found.agrees}, ensure_ascii=False) + "\n")
    return 0 if found.agrees else 1


if __name__ == "__main__":
    raise SystemExit(main())
