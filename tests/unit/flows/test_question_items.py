"""Question items generated from held-out documents."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.errors import PocError
from flows.question_items import KINDS, PER_ANSWER, HeldOut, generate, write_questions
from flows.question_templates import GAP, TEMPLATES
from flows.questions import Question, load_questions, select_items, split_of
from flows.terms import Term, find_spans, load_glossary
from flows.terms import TermMatcher as Matcher

SAMPLE = Path(__file__).parents[3] / "flows" / "sample"
TERMS = load_glossary(SAMPLE / "glossary.csv")
HELD_OUT = {
    "test": ("mod_ssl", "mod_alias", "howto_auth", "logs", "env"),
    "validation": ("mod_proxy", "mod_dir", "howto_cgi", "sections", "dso", "mod_cgi"),
}


def _documents() -> list[HeldOut]:
    return [
        HeldOut(f"{language}/{name}.txt", language, split, path.read_text("utf-8"))
        for split, names in HELD_OUT.items()
        for language in ("ja", "en")
        for name in names
        if (path := SAMPLE / "corpus" / language / f"{name}.txt").exists()
    ]


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    documents = _documents()
    return [item for language in ("ja", "en") for item in generate(documents, TERMS, language, 100, 7)]


@pytest.fixture(scope="module")
def questions(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    path = tmp_path_factory.mktemp("questions") / "new" / "questions.jsonl"
    write_questions(items, path)
    return load_questions(path)


def test_the_file_loads_and_serves_both_splits(questions: list[Question]) -> None:
    """Every fact that was made can be selected, in its own split, and every kind and language is there."""
    for split in ("validation", "test"):
        chosen = select_items(questions, split, 10_000, 0)
        facts = {q.group for q in questions if q.held_out == (split == "test")}

        assert {q.group for q in chosen} == facts
        assert {q.slice for q in chosen} == {f"{language}_{kind}" for language in ("ja", "en") for kind in KINDS}
        assert Counter(q.language for q in chosen)["ja"] == 100


def test_no_fact_document_or_template_crosses_the_splits(questions: list[Question]) -> None:
    """An item is on the side of its document, and the test asks in templates of its own."""
    split_of_document = {document.document_id: document.split for document in _documents()}
    for question in questions:
        split = split_of_document[question.source_document]
        assert split_of(question.group) == split
        assert question.held_out == (split == "test")
        assert question.template_id.endswith("_4") == question.held_out


def test_the_answer_is_the_term_that_stood_there(questions: list[Question]) -> None:
    """Putting the answer into the gap gives a sentence of the document; it fits at one place only."""
    texts = {document.document_id: document.text for document in _documents()}
    clozes = [q for q in questions if q.slice.endswith("cloze") and q.template_id.endswith("_2")]
    for question in clozes:
        sentence = question.question.split("\n")[0].split(": ", 1)[1]
        answer = question.choices[question.answer].strip()
        assert sentence.count(GAP) == 1
        assert sentence.replace(GAP, answer) in texts[question.source_document]
        assert answer.casefold() not in sentence.casefold()
    assert len(clozes) > 20


def test_wrong_choices_are_of_the_class_of_the_answer(questions: list[Question]) -> None:
    """A matcher gives all four choices one class, and none of the wrong ones is an alias of the right one."""
    matcher = Matcher.from_glossary(TERMS)
    for question in questions:
        spans = [find_spans(choice.strip(), matcher) for choice in question.choices]
        kinds = [found[0].kind for found in spans if found]
        assert len(set(kinds)) == 1, question.choices
        if kinds[0] in ("glossary", "directive"):
            terms = [found[0].term for found in spans]
            assert terms.count(terms[question.answer]) == 1


def test_wrong_choices_do_not_stand_in_the_sentence(questions: list[Question]) -> None:
    """A choice that can be read in the sentence would be no guess."""
    for question in questions:
        if question.slice.endswith("cloze") and question.template_id.endswith("_2"):
            sentence = question.question.split("\n")[0].split(": ", 1)[1].casefold()
            wrong = [c.strip() for i, c in enumerate(question.choices) if i != question.answer]
            assert not [choice for choice in wrong if choice.casefold() in sentence]


def test_reading_items_show_one_solved_example_and_the_passage(questions: list[Question]) -> None:
    """The prompt has two passages, one of them solved, and the passage holds the answer."""
    for question in (q for q in questions if q.slice.endswith("reading")):
        example, asked = question.question.split("\n\n", 1)
        assert example.endswith(("14 days", "14 日間"))
        assert question.choices[question.answer].strip() in asked
        assert question.question.count(GAP) == 2


def test_right_answers_move_through_the_places(questions: list[Question]) -> None:
    """Each of the four places is right about as often."""
    places = Counter(q.answer for q in questions)

    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) <= 1.2 * min(places.values())


def test_one_answer_does_not_dominate(questions: list[Question]) -> None:
    """At most `PER_ANSWER` facts of one kind and split have the same answer."""
    answers = Counter(
        (q.slice, q.held_out, q.choices[q.answer].strip().casefold()) for q in questions if q.template_id[-1] in "14"
    )

    assert max(answers.values()) == PER_ANSWER


def test_the_same_seed_gives_the_same_items_and_fewer_are_a_part(items: list[dict[str, Any]]) -> None:
    """Nothing depends on the order of hashes or of documents."""
    documents = _documents()[::-1]
    again = [item for language in ("ja", "en") for item in generate(documents, TERMS, language, 100, 7)]
    few = generate(documents, TERMS, "ja", 10, 7)

    assert {item["question"] for item in again} == {item["question"] for item in items}
    assert {item["question"] for item in few} <= {item["question"] for item in items}
    assert len({item["group"] for item in few}) == 20


def test_training_documents_are_refused() -> None:
    """A question about text that is trained on would show memory, not skill."""
    with pytest.raises(PocError, match="validation or test document, got one of split 'train'"):
        generate([HeldOut("a.txt", "en", "train", "Some text.")], TERMS, "en", 5, 0)


def test_sentences_with_masked_data_are_not_asked_about() -> None:
    """A placeholder stands for a person's data; no question is made of its sentence."""
    text = "The certificate of [NAME] expires in the next month.\n" * 5
    terms = [Term("Certificate", "en", "", (), 1.0, False, "", "glossary")]

    assert generate([HeldOut("a.txt", "en", "test", text)], terms, "en", 5, 0) == []


def test_templates_have_their_fields() -> None:
    """Four templates for every language and kind, each with its text, no two alike."""
    assert set(TEMPLATES) == {f"{language}_{kind}" for language in ("ja", "en") for kind in KINDS}
    for name, templates in TEMPLATES.items():
        assert len(set(templates)) == 4
        assert all("{text}" in t and ("{passage}" in t) == name.endswith("reading") for t in templates)
