"""`skip-poc terms` and `skip-poc questions`: drafts of the glossary and the questions, made from the corpus.

Both read the documents as a run does, so that a run takes the finished stage over. Terms come from training
documents, questions from held-out documents only. The files hold text of the company: they stay where the person
puts them, and nothing of them is logged or tracked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flows import stages
from flows.corpus.background import OFFICE_HELP, background_texts, check_background
from flows.corpus.japanese import has_sudachi
from flows.corpus.propose import propose_terms, write_csv
from flows.errors import PocError
from flows.question_items import HeldOut, generate, write_questions
from flows.questions import load_questions, select_items
from flows.terms import load_glossary
from flows.workbench import Workbench
from kpis.planning import MAX_ITEMS, items_for_power

__all__ = ["write_question_draft", "write_term_draft"]

LANGUAGES = ("ja", "en")
MIN_BACKGROUND = 1_000_000
"""General text that even a small corpus is contrasted with; a larger one with its own size. [characters]"""
MAX_CHARACTERS = 5_000_000
"""Held-out text that questions are made from; more of it would not make better ones. [characters]"""


def write_term_draft(bench: Workbench, out: Path, n: int, background: str | None = None) -> str:
    """Propose critical terms and write them below the present glossary, as a CSV for a domain expert to edit.

    Args:
        bench: The PoC.
        out: CSV file to write; it must not be there yet.
        n: Proposals per language.
        background: General text to contrast with: a folder or ``package:libreoffice-help``. None takes the package
            where it is installed, and otherwise ranks by how much terms cluster in few documents.

    Returns:
        What was done, for the terminal: numbers and ways, no terms.

    Raises:
        PocError: The file is there already, or an input is missing or malformed.
    """
    _refuse_existing(out)
    if background is not None:
        check_background(background)
    stages.ingest(bench)
    glossary = [] if bench.glossary_path is None else load_glossary(bench.glossary_path)
    size: Counter[str] = Counter()
    for row in _documents(bench, "train"):
        size[row["language"]] += len(row["text"])
    source = background or _installed()
    general: Iterable[tuple[str, str]] = ()
    if source is not None:
        shares = {language: size[language] / size.total() for language in LANGUAGES if size[language]}
        texts = background_texts(max(size.total(), MIN_BACKGROUND), bench.settings.model.seed, source, shares)
        general = ((text.text, text.source.split("/")[0]) for text in texts)
    own = ((row["text"], row["language"]) for row in _documents(bench, "train"))
    proposals = propose_terms(own, general, n, glossary)
    write_csv(proposals, out, glossary)
    by_language = Counter(proposal.language for proposal in proposals)
    nouns = "SudachiPy" if has_sudachi() else "script runs (better, with readings: pip install 'skiplayer-poc[ja]')"
    contrast = source or f"none (apt-get install {' '.join(f'libreoffice-help-{name}' for name in ('ja', 'en-us'))})"
    return (
        f"{out}: {len(glossary)} terms of the glossary, {by_language['ja']} Japanese and {by_language['en']} English "
        f"proposals\n  Japanese compound nouns by: {nouns}\n  background text: {contrast}\n"
        f"  next: delete what is not critical, set weight and must_not_skip, and name the file in corpus.glossary"
    )


def write_question_draft(bench: Workbench, out: Path, n: int | None = None) -> str:
    """Generate question items from held-out documents and write them as a questions file.

    Args:
        bench: The PoC.
        out: JSON Lines file to write; it must not be there yet.
        n: Facts for the test; None takes as many as the registered margin needs.

    Returns:
        What was done, for the terminal: numbers, no text.

    Raises:
        PocError: The file is there already, an input is malformed, or the held-out documents give no item.
    """
    _refuse_existing(out)
    stages.ingest(bench)
    gates = bench.settings.gates
    needed = items_for_power(gates.planning_flip_rate, gates.quality_margin, gates.alpha, gates.power) or MAX_ITEMS
    wanted = needed if n is None else n
    terms = [] if bench.glossary_path is None else load_glossary(bench.glossary_path)
    documents: list[HeldOut] = []
    left = MAX_CHARACTERS
    for row in _documents(bench, "validation", "test"):
        if left > 0:
            documents.append(HeldOut(row["document_id"], row["language"], row["split"], row["text"]))
            left -= len(row["text"])
    size = Counter({language: sum(len(d.text) for d in documents if d.language == language) for language in LANGUAGES})
    items: list[dict[str, Any]] = []
    for language in LANGUAGES:
        share = round(wanted * size[language] / max(size.total(), 1))
        items += generate(documents, terms, language, share, bench.settings.model.seed)
    if not items:
        raise PocError("the held-out documents give no question item", where="corpus.folder",
                       todo="name a glossary in corpus.glossary, or add documents with longer sentences")  # fmt: skip
    write_questions(items, out)
    questions = load_questions(out)
    got = {split: len(select_items(questions, split, len(questions), 0)) for split in ("validation", "test")}
    short = "" if got["test"] >= needed else f", {needed - got['test']} too few: add documents, glossary or questions"
    return (
        f"{out}: {got['validation']} facts for the choice of the threshold, {got['test']} for the test\n"
        f"  the registered margin of {gates.quality_margin:g} takes {needed}{short}\n"
        f"  next: read some of them, add your own with must_pass, and name the file in corpus.questions"
    )


def _documents(bench: Workbench, *splits: str) -> Iterator[dict[str, Any]]:
    """Give the company's own documents of these splits, one at a time."""
    with (bench.folder("ingest") / "documents.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row: dict[str, Any] = json.loads(line)
            if row["split"] in splits and not row["document_id"].startswith("background/"):
                yield row


def _installed() -> str | None:
    try:
        check_background(OFFICE_HELP)
    except PocError:
        return None
    return OFFICE_HELP


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise PocError("the file is there already, and may hold a person's work", where=str(out),
                       todo="give another file name, or move the old file away")  # fmt: skip
