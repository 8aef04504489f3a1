"""Drafts of glossary and questions from an ingested corpus."""

import json
from pathlib import Path

import pytest

from flows import stages
from flows.corpus import background
from flows.errors import PocError
from flows.progress import Progress
from flows.questions import load_questions
from flows.settings import load_settings
from flows.store import StageResult, Store
from flows.terms import load_glossary
from flows.terms_command import write_question_draft, write_term_draft
from flows.workbench import Workbench

SAMPLE = Path(__file__).parents[3] / "flows" / "sample"
TRAIN = "The torque wrench of the assembly line is calibrated every month.\n" * 6
GENERAL = "The letter of the office is sent every month.\n" * 30
HELD_OUT = ["mod_dir", "mod_cgi", "mod_setenvif", "mod_dav"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """The sample's settings over a finished ingest of a few documents."""
    monkeypatch.setattr(stages, "ingest", lambda bench: bench.stages["ingest"])
    monkeypatch.setattr(background, "OFFICE_HELP_FOLDER", tmp_path / "not installed")
    folder = tmp_path / "ingest"
    folder.mkdir()
    rows = [("a.txt", "train", TRAIN), ("background/en/g.txt", "train", GENERAL)]
    for i, name in enumerate(HELD_OUT):
        rows.append(
            (f"{name}.txt", "test" if i % 2 else "validation", (SAMPLE / f"corpus/en/{name}.txt").read_text("utf-8"))
        )
    lines = [
        json.dumps({"document_id": name, "language": "en", "split": split, "cluster": name, "text": text, "spans": []})
        for name, split, text in rows
    ]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    path = SAMPLE / "poc.yaml"
    made = Workbench(load_settings(path), path, Store(tmp_path / "store"), Progress(quiet=True))
    made.stages["ingest"] = StageResult("ingest", "key", folder, 0.0, True)
    return made


def test_the_term_draft_holds_the_glossary_and_terms_of_training_text(bench: Workbench, tmp_path: Path) -> None:
    """Terms come from training documents only, not from held-out ones and not from mixed-in general text."""
    general = tmp_path / "general"
    general.mkdir()
    (general / "letters.txt").write_text(GENERAL, "utf-8")
    out = tmp_path / "proposed.csv"
    told = write_term_draft(bench, out, 20, str(general))
    terms = {term.term for term in load_glossary(out)}

    assert {"認証", "KeepAlive", "torque wrench"} <= terms
    assert not {"letter", "office"} & terms
    assert "torque" not in told


def test_without_background_the_draft_says_what_to_install(bench: Workbench, tmp_path: Path) -> None:
    """No general text is a way to work, and the terminal tells how to get some."""
    told = write_term_draft(bench, tmp_path / "proposed.csv", 20)

    assert "none (apt-get install libreoffice-help-ja" in told


def test_the_question_draft_is_a_questions_file_and_tells_what_is_missing(bench: Workbench, tmp_path: Path) -> None:
    """Items come from held-out documents, and the needed number is that of the registered margin."""
    out = tmp_path / "questions.jsonl"
    told = write_question_draft(bench, out)
    questions = load_questions(out)

    assert {question.source_document for question in questions} == {f"{name}.txt" for name in HELD_OUT}
    assert "takes 819" in told
    assert "too few" in told


@pytest.mark.parametrize("write", [lambda b, out: write_term_draft(b, out, 5), write_question_draft])
def test_a_file_that_is_there_is_never_overwritten(bench: Workbench, tmp_path: Path, write: object) -> None:
    """An expert may have edited it."""
    out = tmp_path / "edited.csv"
    out.write_text("mine", "utf-8")
    with pytest.raises(PocError, match="there already"):
        write(bench, out)  # type: ignore[operator]

    assert out.read_text("utf-8") == "mine"


def test_documents_without_sentences_to_ask_about_are_told(bench: Workbench, tmp_path: Path) -> None:
    """No item at all is an error with advice, not an empty file."""
    rows = bench.folder("ingest") / "documents.jsonl"
    rows.write_text(rows.read_text("utf-8").split("\n")[0] + "\n", "utf-8")
    with pytest.raises(PocError, match="give no question item"):
        write_question_draft(bench, tmp_path / "questions.jsonl")

    assert not (tmp_path / "questions.jsonl").exists()
