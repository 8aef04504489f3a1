"""`skip-poc check`: read every input the settings name, without running anything.

`check_inputs` looks at everything that takes a moment and stops at the first fault; a run begins with it.
`examine` also reads the documents, or an even sample of a large folder, and collects everything that is wrong.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeVar

from flows import estimate, runtime
from flows.corpus.background import check_background
from flows.corpus.manifest import check_readable
from flows.corpus.pipeline import Corpus, Report, list_files
from flows.errors import PocError
from flows.ingest import load_names, read
from flows.load_test import load, planned_path
from flows.questions import Question, load_questions, select_items
from flows.settings import Settings, background_source, base_source, has_cuda, price_path, resolve
from flows.terms import Term, load_glossary, read_glossary
from kpis.errors import KpiError
from kpis.planning import MAX_ITEMS, items_for_power
from kpis.prices import load_prices, stale_state

T = TypeVar("T")

MAX_FAULTS = 20
"""Faulty lines of the questions that a check tells; each takes another reading of the file."""

SAMPLE_BYTES = 64 * 10**6
"""A folder that holds more is not read whole by a check. [bytes]"""


@dataclass(frozen=True)
class Read:
    """What the documents hold, or those of the sample."""

    corpus: Corpus
    n_bytes: int
    """Size of the whole folder. [bytes]"""
    share: float
    """Share of the files that were read."""
    ingest_s: float
    """Time that reading and writing all of it will take, about. [s]"""


@dataclass
class Findings:
    """Everything that a dry run finds."""

    problems: list[PocError | KpiError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    read: Read | None = None
    terms: list[Term] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    n_items: int = 0
    """Items that the one test will ask."""
    needed_items: int = 0
    """Items that the registered margin takes."""
    effort: estimate.Estimate = field(default_factory=lambda: estimate.Estimate(None, None))
    free_gb: float = 0.0
    """Free disk beside the settings file. [10^9 bytes]"""

    def attempt(self, call: Callable[[], T], otherwise: T) -> T:
        """Return what a call gives; a fault that a person can put right becomes a problem."""
        try:
            return call()
        except (PocError, KpiError) as error:
            self.problems.append(error)
            return otherwise


def check_inputs(settings: Settings, settings_path: Path) -> None:
    """Read glossary, questions, names, prices and load test, and look for documents and the base model.

    Raises:
        PocError: An input is missing, empty or malformed, or the base model cannot be found.
        PriceError: The price file is malformed or has no row of the wanted id.
    """
    _check_folder(settings, settings_path)
    _names(settings, settings_path)
    _check_background(settings, settings_path)
    _terms(settings, settings_path)
    _questions(settings, settings_path)
    _check_prices(settings, settings_path)
    _check_load_test(settings, settings_path)
    _check_model(settings, settings_path)


def examine(settings: Settings, settings_path: Path, report: Report = lambda _: None) -> Findings:
    """Read all inputs and return what is in them and what is wrong with them; nothing is left on the disk."""
    found = Findings()
    attempt = found.attempt
    found.read = attempt(lambda: _read(settings, settings_path, report), None)
    attempt(lambda: _check_background(settings, settings_path), None)
    found.terms = attempt(lambda: _all_terms(settings, settings_path, found.problems), [])
    found.questions = attempt(lambda: _all_questions(settings, settings_path, found.problems), [])
    found.warnings += attempt(lambda: _check_prices(settings, settings_path), [])
    attempt(lambda: _check_load_test(settings, settings_path), None)
    attempt(lambda: _check_model(settings, settings_path), None)

    gates, wanted = settings.gates, settings.model.sweep.test_items
    found.needed_items = (
        items_for_power(gates.planning_flip_rate, gates.quality_margin, gates.alpha, gates.power) or MAX_ITEMS
    )
    if found.questions and wanted:
        found.n_items = len(
            attempt(lambda: select_items(found.questions, "test", wanted, settings.model.seed), list[Question]())
        )
    text_bytes = 0 if found.read is None else found.read.n_bytes
    n_parameters = estimate.n_parameters(base_source(settings, settings_path))
    speed = estimate.machine_flops(has_cuda())
    found.effort = estimate.estimate(settings.model, n_parameters, speed, text_bytes)
    found.free_gb = shutil.disk_usage(settings_path.resolve().parent).free / 1e9
    found.warnings += _warnings(found)
    return found


def _check_folder(settings: Settings, settings_path: Path) -> Path:
    folder = resolve(settings_path, settings.corpus.folder)
    if not folder.is_dir():
        raise PocError("the corpus folder does not exist", where=f"corpus.folder: {folder}",
                       todo="set corpus.folder to the folder that holds the documents")  # fmt: skip
    if not list_files(folder).sources:
        raise PocError("the corpus holds no usable document", where=f"corpus.folder: {folder}",
                       todo="put documents there, or lower corpus.min_characters")  # fmt: skip
    return folder


def _names(settings: Settings, settings_path: Path) -> tuple[str, ...]:
    name = settings.corpus.private_names
    return load_names(None if name is None else resolve(settings_path, name))


def _check_background(settings: Settings, settings_path: Path) -> None:
    source = background_source(settings, settings_path)
    if source is not None:
        check_background(source)


def _terms(settings: Settings, settings_path: Path) -> list[Term]:
    name = settings.corpus.glossary
    return [] if name is None else load_glossary(resolve(settings_path, name))


def _questions(settings: Settings, settings_path: Path) -> list[Question]:
    name = settings.corpus.questions
    return [] if name is None else load_questions(resolve(settings_path, name))


def _all_terms(settings: Settings, settings_path: Path, problems: list[PocError | KpiError]) -> list[Term]:
    """Return the terms whose rows are right; every other row becomes a problem."""
    name = settings.corpus.glossary
    terms, faults = ([], []) if name is None else read_glossary(resolve(settings_path, name))
    problems += faults
    return terms


def _all_questions(settings: Settings, settings_path: Path, problems: list[PocError | KpiError]) -> list[Question]:
    """Return the questions whose lines are right; every other line becomes a problem.

    A line with a fault is left empty and the file read again, so that all other lines keep their numbers.

    Raises:
        PocError: The file cannot be read, or has more than ``MAX_FAULTS`` faults.
    """
    name = settings.corpus.questions
    if name is None:
        return []
    path = resolve(settings_path, name)
    with tempfile.TemporaryDirectory(prefix="skip-poc-check-") as place:
        readable = path
        for _ in range(MAX_FAULTS):
            try:
                return load_questions(readable)
            except PocError as error:
                where, _, number = error.where.rpartition(":")
                if where != str(readable) or not number.isdecimal():
                    raise PocError(error.what, where=str(path), todo=error.todo) from error
                problems.append(PocError(error.what, where=f"{path}:{number}", todo=error.todo))
                lines = readable.read_text(encoding="utf-8").split("\n")
                lines[int(number) - 1] = ""
                readable = Path(place) / "questions.jsonl"
                readable.write_text("\n".join(lines), "utf-8")
    raise PocError(f"expected questions, got faults in {MAX_FAULTS} lines and perhaps in more", where=str(path),
                   todo="correct these lines and check again")  # fmt: skip


def _check_prices(settings: Settings, settings_path: Path) -> list[str]:
    book = load_prices(price_path(settings, settings_path))
    limits = settings.gates
    today = date.today()
    dated = {
        settings.cost.price: book.gpu(settings.cost.price).as_of,
        settings.cost.api: book.api(settings.cost.api).as_of,
        "the exchange rate": book.fx.as_of,
    }
    old = [
        f"{name} is of {day}"
        for name, day in dated.items()
        if stale_state(day, today, limits.price_warning_days, limits.price_block_days) != "ok"
    ]
    return [f"prices are old: {', '.join(old)}"] if old else []


def _check_load_test(settings: Settings, settings_path: Path) -> None:
    path = planned_path(settings, settings_path)
    if path is not None:
        load(path)


def _check_model(settings: Settings, settings_path: Path) -> None:
    problem = runtime.base_model_problem(base_source(settings, settings_path))
    if problem is not None:
        raise PocError(problem, where=f"{settings_path}: model.base.source",
                       todo="run `make env`, or name a Hugging Face model folder")  # fmt: skip


def _read(settings: Settings, settings_path: Path, report: Report) -> Read:
    folder = _check_folder(settings, settings_path)
    options = settings.corpus
    n_bytes = list_files(folder).n_bytes
    share = min(1.0, SAMPLE_BYTES / max(n_bytes, 1))
    n_workers = runtime.usable_cores()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="skip-poc-check-") as place:
        corpus, _ = read(
            folder, Path(place), min_characters=options.min_characters, clean=options.clean, limits=options.limits,
            names=_names(settings, settings_path), n_workers=n_workers, report=report, share=share,
        )  # fmt: skip
    seconds = (time.perf_counter() - started) / share
    check_readable(len(corpus.rows), corpus.rejected, options.max_unreadable_share, f"corpus.folder: {folder}")
    if not corpus.rows:
        raise PocError("the corpus holds no usable document", where=f"corpus.folder: {folder}",
                       todo="put documents there, or lower corpus.min_characters")  # fmt: skip
    return Read(corpus, n_bytes, share, 2 * seconds)


def _warnings(found: Findings) -> list[str]:
    warnings = []
    if found.n_items < found.needed_items:
        missing = found.needed_items - found.n_items
        warnings.append(
            f"the test will ask {found.n_items} questions and the registered margin takes {found.needed_items}: the "
            f"verdict will say that the evidence is short; add {missing} (corpus.questions, model.sweep.test_items)"
        )
    disk = found.effort.disk_gb
    if disk is not None and disk > found.free_gb:
        warnings.append(f"the run takes about {disk:.1f} GB of disk and {found.free_gb:.1f} GB are free")
    return warnings
