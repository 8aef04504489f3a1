"""`skip-poc check`: read every input the settings name, without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows import runtime
from flows.errors import PocError
from flows.ingest import read_corpus
from flows.questions import load_questions
from flows.settings import Settings, base_source, price_path, resolve
from flows.terms import load_glossary
from kpis.prices import load_prices


@dataclass(frozen=True)
class Inputs:
    """What the inputs of a PoC hold."""

    n_documents: int
    n_rejected: int
    """Files that go to quarantine: too short, not text, not readable."""
    n_terms: int
    n_questions: int


def check_inputs(settings: Settings, settings_path: Path) -> Inputs:
    """Read corpus, glossary, questions and prices, look for the base model, and return the counts.

    Raises:
        PocError: An input is missing, empty or malformed, or the base model cannot be found.
        PriceError: The price file is malformed or has no row of the wanted id.
    """
    folder = resolve(settings_path, settings.corpus.folder)
    documents, rejected = read_corpus(folder, settings.corpus.min_characters)
    if not documents:
        raise PocError("the corpus holds no usable document", where=f"corpus.folder: {folder}",
                       todo="put text files there, or lower corpus.min_characters")  # fmt: skip
    glossary, questions = settings.corpus.glossary, settings.corpus.questions
    n_terms = len(load_glossary(resolve(settings_path, glossary))) if glossary else 0
    n_questions = len(load_questions(resolve(settings_path, questions))) if questions else 0

    book = load_prices(price_path(settings, settings_path))
    book.gpu(settings.cost.price)
    book.api(settings.cost.api)

    problem = runtime.base_model_problem(base_source(settings, settings_path))
    if problem is not None:
        raise PocError(problem, where=f"{settings_path}: model.base.source",
                       todo="run `make env`, or name a Hugging Face model folder")  # fmt: skip
    return Inputs(len(documents), len(rejected), n_terms, n_questions)
