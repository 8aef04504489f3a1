"""`skip-poc decide` on written answers, timed int8 weights and the device of a load test, from records alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import answers
from flows.decide import decide, registered_plan
from flows.settings import Settings
from flows.store import read_json, sha256_json, write_json
from kpis.errors import RecordError
from reports.render import render
from reports.result import validate
from tests.unit.flows import decided_run
from tests.unit.flows.test_decide import gate, plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it was stored; tests that change records take a copy."""
    return decided_run.make(tmp_path_factory.mktemp("decide-answers"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run with its store."""
    shutil.copytree(made.parent, tmp_path / "runs")
    return tmp_path / "runs" / made.name


def keep(run: Path, stage: str, file: str, value: dict[str, Any]) -> None:
    """Write one record into a finished stage."""
    (folder,) = run.parent.glob(f"store/{stage}-*")
    write_json(folder / file, value)


def test_written_answers_are_judged_from_their_records(run: Path) -> None:
    """Two of 60 answers got worse: one row per metric, agreement, the slice, and no verdict that moves."""
    rows = [decided_run.answer(i, worse=i in (3, 4)) for i in range(60)]
    keep(run, "confirm", answers.RECORDS, decided_run.answers(rows))

    decision = decide(run)
    detail = decision.result["detail"]
    validate(decision.result)
    graded = [(row["metric"], row["n"], row["n_worse"]) for row in detail["graded"]]
    assert graded == [("char_f1", 30, 1), ("exact_match", 60, 2), ("token_f1", 30, 1)]
    assert (detail["graded_reason"], detail["answers_reason"]) == (None, None)
    written = detail["answers"]
    assert written["agreement"]["value"] == pytest.approx(58 / 60)
    assert written["first_difference"] == {"n": 2, "median_tokens": 2.0}
    assert written["must_pass"] == {"n": 1, "n_worse": 0}
    assert written["self_consistency"]["delta"] == pytest.approx(-1 / 60)
    assert written["slices"][0]["skip_exact"] == pytest.approx(58 / 60)
    assert decision.result["verdict"] == decision.stored["verdict"]
    assert {difference.path.split("/")[1] for difference in decision.differences} == {"detail"}


def test_the_page_shows_numbers_instead_of_the_reason(run: Path) -> None:
    """With answers the sentence why there are none is gone in both languages; without them it stands there."""
    before = render(read_json(run / "result.json"), "ja")
    keep(run, "confirm", answers.RECORDS, decided_run.answers([decided_run.answer(i) for i in range(20)]))
    after = {language: render(decide(run).result, language) for language in ("ja", "en")}

    assert "回答を生成して採点する質問が計画にありません" in before
    assert "回答を生成して採点する質問が計画にありません" not in after["ja"]
    assert "The plan has no questions with generated answers" not in after["en"]
    assert "A4 Self-consistency, SkipLayer" in after["en"]
    assert "A3 生成した回答の一致率" in after["ja"]


def test_a_damaged_answer_record_is_refused(run: Path) -> None:
    """A grade in per cent among fractions is an error that names the item."""
    keep(run, "confirm", answers.RECORDS, decided_run.answers([decided_run.answer(7, dense_f1=88.0)]))

    with pytest.raises(RecordError, match=r"i7.*dense_f1"):
        decide(run)


def test_metrics_go_by_the_id_of_the_kpi(run: Path) -> None:
    """Every figure of the answers has its KPI in its name; a result without answers has none."""
    assert answers.metrics(read_json(run / "result.json")) == {}
    keep(run, "confirm", answers.RECORDS, decided_run.answers([decided_run.answer(i, worse=i < 2) for i in range(20)]))

    found = answers.metrics(decide(run).result)
    assert found["kpi_A1_skip"] == pytest.approx(0.9)
    assert found["kpi_A1_delta"] == pytest.approx(-0.1)
    assert (found["kpi_A3"], found["kpi_A_n"]) == (pytest.approx(0.9), 20.0)
    assert {name for name in found if name.startswith("kpi_A2")} == {
        f"kpi_A2_{metric}_{arm}" for metric in ("char", "token") for arm in ("dense", "skip", "delta")
    }
    assert found["kpi_A4_dense"] == 1.0
    keep(run, "confirm", answers.RECORDS, decided_run.answers(
        [decided_run.answer(i, dense_consistency=None, skip_consistency=None) for i in range(20)]))  # fmt: skip
    assert not [name for name in answers.metrics(decide(run).result) if name.startswith("kpi_A4")]


@pytest.mark.parametrize(
    ("speedup", "rise", "reason"),
    [(1.8, 0.0, "no_worse_and_simpler"), (1.2, 0.0, "rival_saves_less"), (1.8, 0.2, "rival_predicts_worse")],
)
def test_int8_is_held_against_the_skip_model_with_its_own_clock(
    run: Path, speedup: float, rise: float, reason: str
) -> None:
    """It is the better choice only where it predicts no worse and its lower bound is at least our speed-up."""
    keep(run, "confirm", "arm-int8.json", decided_run.arm(rise, 0.0))
    keep(run, "measure", "int8.json", decided_run.int8(speedup))

    decision = decide(run)
    row = next(rival for rival in decision.rivals if rival["name"] == "int8")
    assert (row["reason"], row["timing"]["speedup"], row["timing"]["n_pairs"]) == (reason, speedup, 20)
    assert "dense_s" in row["timing"]
    control = next(row for row in decision.result["controls"] if row["name"] == "int8")
    assert control["note"] is None
    assert "int8の密モデルの時間" in render(decision.result, "ja")


def test_int8_that_cannot_run_here_is_told_so(run: Path) -> None:
    """Without a timing the rival's quality stands alone, as in a run from before it was timed."""
    keep(run, "measure", "int8.json", {"speedup": None, "low": None, "high": None, "reason": "int8_not_supported"})

    decision = decide(run)
    assert next(rival for rival in decision.rivals if rival["name"] == "int8")["timing"] is None
    assert next(row for row in decision.result["controls"] if row["name"] == "int8")["note"] == "quality_only"


@pytest.mark.parametrize("n_failed", [0, 8])
def test_a_load_test_of_another_device_neither_proves_nor_refutes(run: Path, tmp_path: Path, n_failed: int) -> None:
    """What would be a Go, or a broken promise, is open when another device answered, and the page says why."""
    test = decided_run.load_test(50.0, 400, n_failed=n_failed)
    write_json(tmp_path / "load.json", test | {"device_name": "NVIDIA H100 PCIe"})

    decision = decide(run, plan(tmp_path, cost={"load_test": "load.json"}))
    assert (gate(decision.result, "S3")["state"], gate(decision.result, "S3")["reason"]) == (
        "inconclusive", "load_test_other_device"
    )  # fmt: skip
    assert decision.result["verdict"]["code"] == "conditional_go"
    assert decision.result["verdict"]["reasons"] == ["load_test_other_device"]
    assert decision.result["responses"]["load_test"]["run_device_name"] == decided_run.DEVICE
    assert "別の機材" in render(decision.result, "ja")


def test_a_plan_from_before_the_setting_keeps_its_hash(made: Path) -> None:
    """A group of settings that the registered plan did not know is no edit of that plan."""
    stored = read_json(made / "result.json")
    flat = stored["plan"]["registered"]
    known = {name: value for name, value in flat.items() if not name.startswith("answers.")}
    older = stored | {"plan": {"registered": known, "deviations": []}}
    settings, _ = registered_plan(stored, made)
    dumped = settings.model_dump(mode="json", exclude={"tracking", "report", "answers"})
    older["run"] = stored["run"] | {"plan_sha256": sha256_json(dumped)}

    folder = made.parent / "nowhere"
    read, is_edited = registered_plan(older, folder)
    assert (read.answers, is_edited) == (Settings.model_fields["answers"].default, False)
    assert registered_plan(older | {"run": stored["run"]}, folder)[1]
