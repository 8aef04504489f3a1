"""Answers that both models write to questions of the one confirmatory test.

They are a part of the confirmation: the same opening of the test split, the same questions (a beginning of its list),
the same threshold. Every question stands behind one solved example from the validation side, so that a base model
knows what an answer looks like. Texts are in-house text: they are kept in one file of the stage folder that only its
owner may read, and everything else holds grades, lengths and hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.questions import Question, solved_example
from flows.settings import Settings
from flows.store import read_json, write_json
from flows.terms import find_spans
from flows.workbench import KINDS, Workbench
from kpis.answers import grade, self_consistency
from kpis.generated import AnswerPair

if TYPE_CHECKING:
    from flows.answers_write import Answer, Endings, Prompt
    from skipmodel.guards import TokenSequences

RECORDS = "answers.json"
TEXTS = "answers_text.json"
CODE = ["flows/answers.py", "flows/answers_write.py", "kpis/answers.py", "kpis/generated.py"]
DEFAULT_ITEMS = {"quick": 16, "standard": 200, "full": 600}
N_SAMPLES_SHOWN = 3
MAX_SHOWN = 200
"""Characters of a text in the report."""


def n_items(settings: Settings) -> int:
    """Return how many questions of the test both models answer; the plan's number, or that of its profile."""
    asked = settings.answers.items
    wanted = DEFAULT_ITEMS.get(settings.profile, DEFAULT_ITEMS["quick"]) if asked is None else asked
    return min(wanted, settings.model.sweep.test_items)


def inputs(settings: Settings) -> dict[str, Any]:
    """Return what decides the answers, beside what decides the confirmation."""
    return settings.answers.model_dump(mode="json") | {"items": n_items(settings)}


def write_answers(
    bench: Workbench, questions: Sequence[Question], routing: Any, folder: Path, report: Callable[[int, int], None]
) -> None:
    """Let both models answer questions, and keep records and texts.

    Args:
        bench: The run.
        questions: Of the test split, in the order of the confirmation.
        routing: The chosen setting.
        folder: Of the stage.
        report: Called with questions done and total.
    """
    plan = bench.settings.answers
    chosen = list(questions[: n_items(bench.settings)])
    writer = _Writers(bench, routing) if chosen else None
    records: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    n_shown = 0
    for done, question in enumerate(chosen):
        example = solved_example(question, bench.questions, bench.settings.model.seed)
        n_shown += example is not None
        record, text = writer.pair(question, example)  # type: ignore[union-attr]
        records.append(record.to_json())
        texts.append(text)
        report(done + 1, len(chosen))
    write_json(folder / TEXTS, {"schema_version": 1, "items": texts}, mode=0o600)
    write_json(folder / RECORDS, {
        "schema_version": 1, "items": records, "n_with_example": n_shown, "max_new_tokens": plan.max_new_tokens,
        "n_samples": plan.samples, "temperature": plan.temperature,
    })  # fmt: skip


class _Writers:
    """Both models with what they need to answer: guards, endings, and the random numbers they share."""

    def __init__(self, bench: Workbench, routing: Any) -> None:
        from flows.answers_write import Endings
        from skipmodel.guards import TokenSequences, term_sequences

        self.bench, self.routing, self.plan = bench, routing, bench.settings.answers
        self.seed = bench.settings.model.seed
        skip = bench.settings.model.skip
        self.is_guarded, self.margins = skip.force_critical, skip.class_margins
        self.endings: Endings = Endings(bench.tokenizer, end_ids(bench))
        self.finder: TokenSequences | None = None
        if self.is_guarded:
            self.finder = TokenSequences(term_sequences(bench.matcher.surfaces, bench.tokenizer))

    def prompt(self, text: str, language: str) -> Prompt:
        """Tokenise a prompt with the guards of the plan."""
        from flows.answers_write import Prompt
        from skipmodel.data import Document, Span, tokenize

        spans = tuple(Span(s.start, s.end, s.kind) for s in find_spans(text, self.bench.matcher))
        (tokens,) = tokenize([Document("prompt", text, spans, language)], self.bench.tokenizer, KINDS)
        kinds = [0] * len(tokens.prefix_ids) + tokens.kind_ids
        return Prompt(
            [*tokens.prefix_ids, *tokens.ids], [self.is_guarded and kind > 0 for kind in kinds],
            [self.margins.get(KINDS[kind], 0.0) for kind in kinds],
        )  # fmt: skip

    def pair(self, question: Question, example: Question | None) -> tuple[AnswerPair, dict[str, Any]]:
        """Answer one question with both models; return the record and the texts."""
        from flows.answers_write import drawn, first_difference, greedy, write

        prompt = self.prompt(prompt_text(question, example), question.language)
        draws = _draws(self.seed, question.item_id, self.plan.samples, self.plan.max_new_tokens)
        picks = [greedy, *(drawn(row, self.plan.temperature) for row in draws)]
        written: dict[str, list[Answer]] = {
            name: write(engine, prompt, routing, picks, endings=self.endings, max_tokens=self.plan.max_new_tokens,
                        finder=self.finder)
            for name, engine, routing in (("dense", self.bench.dense_engine, None),
                                          ("skip", self.bench.engine, self.routing))
        }  # fmt: skip
        texts = {name: [self.endings.text(answer) for answer in answers] for name, answers in written.items()}
        reference = question.choices[question.answer].strip()
        grades = grade(
            question.item_id, question.group, question.slice, dense=texts["dense"][0], skip=texts["skip"][0],
            references=[reference], language=question.language,
        )  # fmt: skip
        exact, f1 = grades.values()
        steady = {name: self_consistency(found[1:]) for name, found in texts.items()}
        record = AnswerPair(
            item_id=question.item_id, document_id=question.source_document, cluster=question.group,
            slice=question.slice, language=question.language, must_pass=question.must_pass,
            f1_metric=f1.metric,  # type: ignore[arg-type]
            dense_exact=exact.dense_score, skip_exact=exact.skip_score, dense_f1=f1.dense_score,
            skip_f1=f1.skip_score, same_answer=exact.same_answer,
            first_difference=first_difference(written["dense"][0], written["skip"][0]),
            dense_tokens=len(written["dense"][0].ids), skip_tokens=len(written["skip"][0].ids),
            dense_ended=written["dense"][0].ended, skip_ended=written["skip"][0].ended,
            dense_sha256=_sha256(texts["dense"][0]), skip_sha256=_sha256(texts["skip"][0]),
            dense_consistency=steady["dense"], skip_consistency=steady["skip"],
        )  # fmt: skip
        kept = {"item_id": question.item_id, "reference": reference, "dense": texts["dense"][0],
                "skip": texts["skip"][0], "dense_drawn": texts["dense"][1:],
                "skip_drawn": texts["skip"][1:]}  # fmt: skip
        return record, kept


def prompt_text(question: Question, example: Question | None) -> str:
    """Return the prompt: one solved example if there is one, then the question."""
    if example is None:
        return question.question
    return f"{example.question}{example.choices[example.answer]}\n\n{question.question}"


def end_ids(bench: Workbench) -> list[int]:
    """Return the tokens that end a text, as the model and its tokenizer say."""
    told = getattr(bench.model.config, "eos_token_id", None)
    found = [bench.tokenizer.eos_token_id, *(told if isinstance(told, list | tuple) else [told])]
    return sorted({int(token) for token in found if token is not None})


# --- what the records say ----------------------------------------------------------------------------------


def read_pairs(folder: Path) -> tuple[list[AnswerPair], dict[str, Any]] | None:
    """Return the records of a finished confirmation and how they were made; None when it has none."""
    if not (folder / RECORDS).exists():
        return None
    kept = read_json(folder / RECORDS)
    return [AnswerPair.from_json(row) for row in kept["items"]], kept


def samples(bench: Workbench) -> list[dict[str, Any]] | None:
    """Return a few questions with both answers, the worst first, with private parts masked.

    None unless the plan lets the report show text (`report.include_samples`), or when nothing was written.
    """
    from flows.corpus.private import mask
    from flows.ingest import load_names

    if not bench.settings.report.include_samples or "confirm" not in bench.stages:
        return None
    found, path = read_pairs(bench.folder("confirm")), bench.folder("confirm") / TEXTS
    if found is None or not found[0] or not path.exists():
        return None
    names = load_names(bench.names_path)
    texts = {row["item_id"]: row for row in read_json(path)["items"]}
    asked = {question.item_id: question for question in bench.questions}

    def shown(text: str) -> str:
        return mask(text, names)[0][:MAX_SHOWN]

    rows = []
    for number, pair in enumerate(sorted(found[0], key=_worst_first)[:N_SAMPLES_SHOWN], start=1):
        text = texts[pair.item_id]
        rows.append({
            "id": f"A{number}", "language": pair.language, "slice": pair.slice,
            "question": shown(asked[pair.item_id].question), "reference": shown(text["reference"]),
            "dense": shown(text["dense"]), "skip": shown(text["skip"]), "same_answer": pair.same_answer,
        })  # fmt: skip
    return rows


def _worst_first(pair: AnswerPair) -> tuple[float, float, bool, str]:
    """Lost exact matches, then lost F1, then changed answers; the id decides between equals."""
    return pair.skip_exact - pair.dense_exact, pair.skip_f1 - pair.dense_f1, pair.same_answer, pair.item_id


def metrics(outcome: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a result that go to MLflow, by KPI id; empty when nothing was written."""
    detail = outcome.get("detail") or {}
    ids = {"exact_match": "A1", "char_f1": "A2_char", "token_f1": "A2_token"}
    found: dict[str, float | None] = {}
    for row in detail.get("graded", []):
        name = f"kpi_{ids[row['metric']]}"
        found |= {f"{name}_dense": row["mean_dense"], f"{name}_skip": row["mean_skip"], f"{name}_delta": row["delta"]}
    answers = detail.get("answers")
    if answers is not None:
        found |= {"kpi_A3": answers["agreement"]["value"], "kpi_A_n": answers["n"]}
        steady = answers["self_consistency"] or {}
        found |= {f"kpi_A4_{arm}": steady.get(arm) for arm in ("dense", "skip", "delta")}
    return {name: float(value) for name, value in found.items() if value is not None}


def _draws(seed: int, item_id: str, n: int, n_tokens: int) -> list[list[float]]:
    """Random numbers of one question: the same for both models and on every machine."""
    import numpy as np

    entropy = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big")
    rows: list[list[float]] = np.random.default_rng([seed, entropy]).random((n, n_tokens)).tolist()
    return rows


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
