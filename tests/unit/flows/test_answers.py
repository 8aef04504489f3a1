"""Answers of a tiny model: the engine's loop, guards, shared luck, and what is kept where."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import answers
from flows.answers_write import Answer, Endings, Prompt, drawn, first_difference, greedy, write
from flows.questions import Question, solved_example, split_of
from flows.settings import AnswerSettings, ReportSettings
from flows.store import read_json, write_json
from flows.terms import TermMatcher
from kpis.generated import AnswerPair
from skipmodel.config import SkipConfig
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import MaskedEngine, open_engine
from skipmodel.guards import TokenSequences
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import VOCAB, make_skip, save_base_folder

PROMPT = Prompt([5, 6, 7, 8, 9, 10], [False] * 6, [0.0] * 6)
WORDS = ("KeepAlive", "Timeout", "ServerName", "Listen", "Alias", "Redirect", "Options", "Require")


class Numbers:
    """A tokenizer of numbers: token 11 is a line break."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the tokens as words."""
        return "".join("\n" if token == 11 else f" t{token}" for token in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    """A routed tiny model that skips about half."""
    return make_skip()


def never() -> Endings:
    """No token ends an answer."""
    endings = Endings(Numbers(), [])
    endings._breaks = lambda token: False
    return endings


def test_dense_greedy_answers_are_those_of_generate(model: Any) -> None:
    """The loop writes what `generate()` of the wrapped model writes with its routing off."""
    (answer,) = write(open_engine(model), PROMPT, None, [greedy], endings=never(), max_tokens=12)
    ids = torch.tensor([list(PROMPT.ids)])
    with torch.inference_mode(), model.routing("dense"):
        expected = model.lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12,
                                     do_sample=False, pad_token_id=0)  # fmt: skip

    assert list(answer.ids) == expected[0, len(PROMPT.ids) :].tolist()
    assert not answer.ended


def test_a_routing_that_skips_nothing_writes_the_dense_answer(model: Any) -> None:
    """Identity: at threshold 0 every answer, greedy or drawn, is the dense one; at a higher one they differ."""
    engine = open_engine(model)
    luck = torch.rand(3, 10, generator=torch.Generator().manual_seed(1)).tolist()
    picks = [greedy, *(drawn(row, 0.7) for row in luck)]
    options: dict[str, Any] = {"endings": never(), "max_tokens": 10}
    dense = write(engine, PROMPT, None, picks, **options)

    assert write(engine, PROMPT, Routing(), picks, **options) == dense
    assert write(engine, PROMPT, Routing(0.0), picks, **options) != dense


def test_the_engines_agree(model: Any) -> None:
    """The branching engine writes what the masked reference writes, guards and margins included."""
    guarded = Prompt(PROMPT.ids, [False, True, False, False, True, False], [0.0, 0.5, 0.0, 0.0, 0.3, 0.0])
    luck = torch.rand(2, 8, generator=torch.Generator().manual_seed(2)).tolist()
    picks = [greedy, *(drawn(row, 1.0) for row in luck)]
    finder = TokenSequences([(token,) for token in range(0, VOCAB, 3)])
    made = [
        write(engine, guarded, Routing(0.0), picks, endings=never(), max_tokens=8, finder=finder)
        for engine in (open_engine(model), MaskedEngine(model))
    ]

    assert made[0] == made[1]


def test_guarding_everything_is_dense(model: Any) -> None:
    """Forced prompt tokens and a finder that holds every token leave nothing to skip."""
    forced = Prompt(PROMPT.ids, [True] * 6, [0.0] * 6)
    finder = TokenSequences([(token,) for token in range(VOCAB)])
    options: dict[str, Any] = {"endings": never(), "max_tokens": 10}
    engine = open_engine(model)
    dense = write(engine, PROMPT, None, [greedy], **options)

    assert write(engine, forced, Routing(0.0), [greedy], finder=finder, **options) == dense
    assert write(engine, PROMPT, Routing(0.0), [greedy], **options) != dense


def test_answers_end_at_a_line_break_or_end_of_text(model: Any) -> None:
    """The ending token is kept among the tokens and left out of the text."""
    (free,) = write(open_engine(model), PROMPT, None, [greedy], endings=never(), max_tokens=12)
    stop = free.ids[3]
    first = free.ids.index(stop)
    (cut,) = write(open_engine(model), PROMPT, None, [greedy], endings=Endings(Numbers(), [stop]), max_tokens=12)

    assert (cut.ids, cut.ended) == (free.ids[: first + 1], True)
    endings = Endings(Numbers(), [2])
    assert 11 in endings
    assert 2 in endings
    assert 3 not in endings
    assert endings.text(Answer((3, 4, 2), True)) == "t3 t4"
    assert endings.text(Answer((3, 11), True)) == "t3"
    assert endings.text(Answer((11,), True)) == ""


def test_half_a_character_is_not_shown() -> None:
    """A byte of a character at the cut would be a question mark in a box."""
    tokenizer = SimpleNamespace(decode=lambda ids: "東京\N{REPLACEMENT CHARACTER}")

    assert Endings(tokenizer, []).text(Answer((1, 2), False)) == "東京"


def test_drawing_follows_the_probabilities() -> None:
    """By hand: probabilities 0.5, 0.25, 0.25 at temperature 1; colder draws the likeliest; 1 - tiny is the last."""
    logits = torch.tensor([2.0, 1.0, 1.0]).log()

    picks = [drawn([u], 1.0)(logits, 0) for u in (0.0, 0.49, 0.51, 0.74, 0.76, 1.0 - 1e-16)]
    assert picks == [0, 0, 1, 1, 2, 2]
    assert drawn([0.97], 0.1)(logits, 0) == 0
    assert drawn([0.1, 0.9], 1.0)(logits, 1) == 2


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [((1, 2), (1, 2), None), ((1, 2), (3, 2), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 2), 2), ((), (4,), 0)],
)
def test_where_answers_part(one: tuple[int, ...], other: tuple[int, ...], at: int | None) -> None:
    """The number of equal tokens before the first other one, or before the shorter one ends."""
    assert first_difference(Answer(one, True), Answer(other, True)) == at


def question(i: int, *, group: str, slice_name: str = "s", template: str = "t1", answer: str = "x") -> Question:
    """One item."""
    return Question(f"q{i}", group, "en", slice_name, template, False, f"Which is number {i}? A:",
                    (f" {answer}", " b", " c", " d"), 0, False, "doc")  # fmt: skip


def groups(split: str) -> Iterator[str]:
    """Names of facts on one side."""
    return (name for name in (f"fact{i}" for i in range(1000)) if split_of(name) == split)


def test_the_example_comes_from_the_validation_side() -> None:
    """Same slice and if possible template, never a test fact, never the asked answer; none where there is none."""
    test, held = next(groups("test")), groups("validation")
    asked = question(0, group=test, answer="Listen")
    others = [
        question(1, group=test, answer="y"),
        question(2, group=next(held), slice_name="other", answer="y"),
        question(3, group=next(held), answer="listen"),
        question(4, group=next(held), template="t2", answer="y"),
        question(5, group=next(held), answer="z"),
    ]

    assert solved_example(asked, [asked, *others], 0) == others[4]
    assert solved_example(asked, [asked, *others[:4]], 0) == others[3]
    assert solved_example(asked, [asked, *others[:3]], 0) is None
    assert answers.prompt_text(asked, others[4]) == "Which is number 5? A: z\n\nWhich is number 0? A:"
    assert answers.prompt_text(asked, None) == asked.question


def test_the_choice_of_the_example_is_fixed_by_the_seed() -> None:
    """The order of the file changes nothing; another seed may."""
    held = groups("validation")
    pool = [question(i, group=next(held), answer=f"w{i}") for i in range(1, 20)]
    asked = question(0, group=next(groups("test")), answer="v")

    assert solved_example(asked, pool, 3) == solved_example(asked, pool[::-1], 3)
    assert len({found.item_id for seed in range(9) if (found := solved_example(asked, pool, seed))}) > 1


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """A bench with a tiny model, its tokenizer, questions about one thing, and a chosen routing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [f"{word} is set in the file of the server.\n" for word in WORDS]
    folder = save_base_folder(tmp_path / "base", texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base: Any = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model: Any = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=4, always_run_first=1, always_run_last=1))
    for _, module in model.routed:
        for parameter in (*module.router.parameters(), *module.skip_path.parameters()):
            torch.nn.init.normal_(parameter, std=0.5)
    model.eval().config.eos_token_id = [2, 2]
    held, test = groups("validation"), groups("test")
    questions = [question(i, group=next(held), answer=word) for i, word in enumerate(WORDS)]
    questions += [question(100 + i, group=next(test), answer=f"ask {word} at taro@kaisha-shoji.co.jp")
                  for i, word in enumerate(WORDS)]  # fmt: skip
    config = SimpleNamespace(
        seed=0, skip=SimpleNamespace(force_critical=True, class_margins={}), sweep=SimpleNamespace(test_items=6)
    )
    settings = SimpleNamespace(
        model=config, profile="quick", answers=AnswerSettings(max_new_tokens=6, samples=2), report=ReportSettings()
    )
    engine = open_engine(model)
    return SimpleNamespace(
        settings=settings, model=model, engine=engine, dense_engine=engine, tokenizer=tokenizer, questions=questions,
        matcher=TermMatcher.from_glossary([]), names_path=None, stages={"confirm": None}, folder=lambda _: tmp_path,
    )  # fmt: skip


def asked(bench: Any) -> list[Question]:
    """The questions of the test split."""
    return [item for item in bench.questions if split_of(item.group) == "test"]


def test_both_models_answer_and_only_grades_leave_the_private_file(bench: Any, tmp_path: Path) -> None:
    """Six questions, one record each; texts only in the file of mode 0600, which the records' hashes belong to."""
    told: list[tuple[int, int]] = []
    answers.write_answers(bench, asked(bench), Routing(0.0), tmp_path, lambda done, total: told.append((done, total)))

    pairs, made = answers.read_pairs(tmp_path) or ([], {})
    kept = read_json(tmp_path / answers.TEXTS)["items"]
    assert told == [(i + 1, 6) for i in range(6)]
    assert [pair.item_id for pair in pairs] == [item.item_id for item in asked(bench)[:6]]
    assert (made["n_with_example"], made["n_samples"], made["max_new_tokens"]) == (6, 2, 6)
    assert stat.S_IMODE((tmp_path / answers.TEXTS).stat().st_mode) == 0o600
    records = (tmp_path / answers.RECORDS).read_text("utf-8")
    for pair, text in zip(pairs, kept, strict=True):
        assert (pair.dense_sha256, pair.skip_sha256) == tuple(answers._sha256(text[arm]) for arm in ("dense", "skip"))
        assert len(text["dense_drawn"]) == len(text["skip_drawn"]) == 2
        assert text["reference"] not in records
        assert pair.dense_tokens <= 6
    assert not list(tmp_path.glob(".*.partial"))


def test_dense_against_itself_is_the_same_in_every_answer(bench: Any, tmp_path: Path) -> None:
    """Identity through the whole stage: with nothing skipped, drawn answers agree too, since luck is shared."""
    answers.write_answers(bench, asked(bench), Routing(), tmp_path, lambda done, total: None)

    pairs, _ = answers.read_pairs(tmp_path) or ([], {})
    kept = read_json(tmp_path / answers.TEXTS)["items"]
    assert all(pair.same_answer and pair.first_difference is None for pair in pairs)
    assert [row["dense_drawn"] for row in kept] == [row["skip_drawn"] for row in kept]
    assert len({json.dumps(row["dense_drawn"]) for row in kept}) > 1


def test_no_questions_leave_empty_records(bench: Any, tmp_path: Path) -> None:
    """Switched off, or without questions, there are records of nothing and no model is asked."""
    bench.settings.answers = AnswerSettings(items=0)
    answers.write_answers(bench, asked(bench), None, tmp_path, lambda done, total: None)

    assert answers.read_pairs(tmp_path) is not None
    assert (answers.read_pairs(tmp_path) or ([0], {}))[0] == []
    assert answers.read_pairs(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("items", "profile", "test_items", "n"),
    [(None, "quick", 96, 16), (None, "standard", 1600, 200), (None, "full", 4000, 600), (None, "quick", 8, 8),
     (5, "quick", 96, 5), (50, "quick", 10, 10), (0, "full", 4000, 0)],
)  # fmt: skip
def test_how_many_questions_are_answered(items: int | None, profile: str, test_items: int, n: int) -> None:
    """The plan's number or that of its profile, and never more than are confirmed."""
    sweep = SimpleNamespace(test_items=test_items)
    settings: Any = SimpleNamespace(
        answers=AnswerSettings(items=items), profile=profile, model=SimpleNamespace(sweep=sweep)
    )

    assert answers.n_items(settings) == n
    assert answers.inputs(settings)["items"] == n


def test_examples_are_shown_only_when_asked_for_and_masked(bench: Any, tmp_path: Path) -> None:
    """Off by default; else the worst first, with the address in the reference replaced."""
    answers.write_answers(bench, asked(bench), Routing(0.0), tmp_path, lambda done, total: None)
    assert answers.samples(bench) is None

    bench.settings.report = ReportSettings(include_samples=True)
    rows = answers.samples(bench)
    assert rows is not None
    assert [row["id"] for row in rows] == ["A1", "A2", "A3"]
    assert all("[EMAIL]" in row["reference"] and "taro@" not in json.dumps(row) for row in rows)
    bench.stages = {}
    assert answers.samples(bench) is None


def test_the_worst_answer_comes_first() -> None:
    """A lost exact match before lost overlap, before an answer that only changed."""
    base = {
        "document_id": "d", "cluster": "c", "slice": "s", "language": "ja", "must_pass": False, "f1_metric": "char_f1",
        "dense_exact": 1.0, "skip_exact": 1.0, "dense_f1": 1.0, "skip_f1": 1.0, "same_answer": False,
        "first_difference": 1, "dense_tokens": 2, "skip_tokens": 2, "dense_ended": True, "skip_ended": True,
        "dense_sha256": "", "skip_sha256": "", "dense_consistency": None, "skip_consistency": None,
    }  # fmt: skip
    lost, less, changed, same = (
        AnswerPair.from_json(base | {"item_id": name} | values)
        for name, values in (
            ("lost", {"skip_exact": 0.0}), ("less", {"skip_f1": 0.2}), ("changed", {}), ("a", {"same_answer": True})
        )
    )  # fmt: skip

    assert sorted([same, changed, less, lost], key=answers._worst_first) == [lost, less, changed, same]


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    """Whatever stood there before, also the rest of an attempt that was killed, the new file is its owner's alone."""
    path = tmp_path / "texts.json"
    path.write_text("old", "utf-8")
    path.chmod(0o644)

    write_json(path, {"a": "東"}, mode=0o600)
    assert read_json(path) == {"a": "東"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_drawn_answer_is_refused() -> None:
    """A single answer agrees with nothing."""
    with pytest.raises(ValueError, match="at least 2"):
        AnswerSettings(samples=1)
