"""`skip-poc decide` on hand-made records: the stored verdict is reproduced, and every departure is told."""

from __future__ import annotations

import shutil
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flows import decide_text
from flows.cli import EXIT_DIFFERENT, main
from flows.decide import decide
from flows.difference import differences
from flows.errors import PocError
from flows.openings import count_openings
from flows.store import read_json, write_json
from kpis import codes
from kpis.prices import DEFAULT_PATH
from reports.messages import messages
from reports.render import render
from reports.result import validate
from tests.unit.flows import decided_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it was stored; tests that change records take a copy."""
    return decided_run.make(tmp_path_factory.mktemp("decide"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run with its store."""
    shutil.copytree(made.parent, tmp_path / "runs")
    return tmp_path / "runs" / made.name


def plan(folder: Path, **changes: dict[str, Any]) -> Path:
    """Write the run's settings with changed groups, and return the file."""
    values = {
        **decided_run.SETTINGS,
        **{name: decided_run.SETTINGS.get(name, {}) | new for name, new in changes.items()},
    }
    return decided_run.write_plan(folder, values)


def change(run: Path, stage: str, file: str, **values: Any) -> None:
    """Change keys of one stored record."""
    (path,) = run.parent.glob(f"store/{stage}-*/{file}")
    write_json(path, read_json(path) | values)


def gate(result: dict[str, Any], name: str) -> dict[str, Any]:
    """One gate of a result."""
    return next(row for row in result["gates"] if row["id"] == name)


def test_unchanged_records_reproduce_everything(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verdict and figures, no deviation, no cause, and no model library is touched."""
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)

    decision = decide(made)

    assert (decision.is_same, decision.differences, decision.causes) == (True, (), ())
    assert decision.result["verdict"] == decision.stored["verdict"]
    assert decision.result["verdict"]["reasons"] == ["not_at_target_load"]
    assert decision.result == decision.stored


def test_the_stored_result_is_never_touched(run: Path, tmp_path: Path) -> None:
    """Deciding by other limits writes beside the run, never into it, and refuses to be told otherwise."""
    before = (run / "result.json").read_bytes()
    settings = plan(tmp_path, gates={"min_speedup": 1.5})

    assert main(["decide", str(run), "-c", str(settings), "--out", str(tmp_path / "again")]) == EXIT_DIFFERENT
    assert main(["decide", str(run), "--out", str(run)]) == 2

    assert (run / "result.json").read_bytes() == before
    result = read_json(tmp_path / "again" / "result.json")
    validate(result)
    assert "gates.min_speedup" in render(result, "ja")
    assert read_json(tmp_path / "again" / "decision.json")["causes"] == ["plan_changed"]


def test_a_changed_limit_is_a_deviation_and_is_applied(run: Path, tmp_path: Path) -> None:
    """A limit moved after the run changes its gate, and is printed with both values."""
    decision = decide(run, plan(tmp_path, gates={"min_speedup": 1.5}))

    assert [str(row) for row in decision.deviations] == ["gates.min_speedup: 1.1 registered, 1.5 now"]
    assert decision.result["plan"]["deviations"] == ["gates.min_speedup: 1.1 registered, 1.5 now"]
    assert gate(decision.result, "S1")["reason"] == "speed_refuted"
    assert decision.result["verdict"]["code"] == "no_go"
    assert decision.causes == ("plan_changed",)
    text = decide_text.text(decision)
    assert "gates.min_speedup: 1.1 registered, 1.5 now" in text
    assert "stored: conditional_go (not_at_target_load)" in text


def test_a_setting_of_the_model_is_told_but_not_applied(run: Path, tmp_path: Path) -> None:
    """What only a new run could show is a deviation without effect on any figure."""
    decision = decide(run, plan(tmp_path, model={"seed": 5}))

    assert [(row.setting, row.is_applied) for row in decision.deviations] == [("model.seed", False)]
    assert decision.differences == ()
    assert "needs a new run" in str(decision.deviations[0])


def test_changed_records_change_the_verdict(run: Path) -> None:
    """Slower timings in the stored cell refute the speed-up, and the records are named as the cause."""
    slow = decided_run.timing("decode", "trained", 0.9)
    change(run, "measure", "cell-00.json", skip_s=slow["skip_s"])

    decision = decide(run)

    assert decision.result["verdict"]["main_reason"] == "speed_refuted"
    assert decision.causes == ("records_changed",)
    speedup = next(line for line in decide_text.text(decision).splitlines() if line.startswith("  S1: "))
    assert 'state "pass" -> "fail"' in speedup


def test_an_edited_plan_is_found_by_its_hash(run: Path) -> None:
    """A margin loosened inside result.json no longer has the hash that was written before the first measurement."""
    result = read_json(run / "result.json")
    result["plan"]["registered"]["gates.quality_margin"] = 0.2
    write_json(run / "result.json", result)

    assert "plan_edited" in decide(run).causes


def test_other_prices_are_a_deviation(run: Path, tmp_path: Path) -> None:
    """A dearer machine changes the cost, and the changed price file is told."""
    dearer = tmp_path / "prices.yaml"
    dearer.write_text(DEFAULT_PATH.read_text("utf-8").replace("per_hour: 1008.0", "per_hour: 2016.0"), "utf-8")

    decision = decide(run, prices=dearer)

    assert [row.setting for row in decision.deviations] == ["prices file"]
    assert decision.causes == ("prices_changed",)
    old, new = (result["cost"]["monthly_jpy"]["dense"] for result in (decision.stored, decision.result))
    assert new == pytest.approx(2 * old)


@pytest.mark.parametrize(("day", "state", "reason"), [
    (date(2026, 11, 25), "ok", None), (date(2026, 12, 20), "warning", "price_old"),
    (date(2027, 3, 15), "block", "price_blocked"),
])  # fmt: skip
def test_old_prices_carry_no_go(made: Path, day: date, state: str, reason: str | None) -> None:
    """Prices of September: fresh in November, old in December, useless for a Go in March."""
    decision = decide(made, on=day)

    assert decision.result["cost"]["price"]["stale"] == state
    assert decision.result["verdict"]["code"] == "conditional_go"
    assert reason is None or reason in decision.result["verdict"]["reasons"]
    assert decision.economics["price"]["stale"] == state
    assert gate(decision.result, "C3")["reason"] == ("price_blocked" if state == "block" else None)
    assert "date_changed" in decision.causes or state == "ok"


def test_limits_that_would_choose_another_setting_keep_the_confirmed_one(run: Path, tmp_path: Path) -> None:
    """The other setting was never confirmed, so it cannot be judged; the conflict is told."""
    decision = decide(run, plan(tmp_path, gates={"max_ppl_rise": 0.006}))

    assert decision.choice_conflict
    assert decision.result["choice"] == decision.stored["choice"]
    assert "never confirmed" in decide_text.text(decision)


def test_limits_that_nothing_passes_end_in_no_go(run: Path, tmp_path: Path) -> None:
    """Without any passing setting the confirmation does not count, whatever it said."""
    decision = decide(run, plan(tmp_path, gates={"min_agreement": 1.0}))

    assert decision.result["confirmation"] is None
    assert decision.result["verdict"]["main_reason"] == "no_threshold_passes"
    assert [row["reason"] for row in decision.rivals] == ["no_threshold_chosen", "no_threshold_chosen"]


def test_a_better_rival_is_named_and_makes_a_go_conditional(tmp_path: Path) -> None:
    """Dropped layers that predict better at the same skip rate: the router brings nothing."""
    decision = decide(decided_run.make(tmp_path, static_rise=0.001))

    assert decision.result["verdict"]["code"] == "conditional_go"
    assert decision.result["verdict"]["reasons"] == ["not_at_target_load", "static_drop_better"]
    assert decision.to_json()["better_choice"] == "static_drop"


def test_int8_is_absent_with_a_reason_until_it_is_measured(run: Path) -> None:
    """No record is None with its reason; a record as good and faster is the better choice."""
    (folder,) = run.parent.glob("store/confirm-*")
    (folder / "arm-int8.json").unlink()
    absent = {row["name"]: row for row in decide(run).rivals}["int8"]
    assert (absent["state"], absent["reason"], absent["ppl_rise"]) == ("not_measured", "int8_not_measured", None)

    write_json(folder / "arm-int8.json", decided_run.arm(0.0, 0.0))
    (measured,) = run.parent.glob("store/measure-*")
    write_json(measured / "int8.json", decided_run.int8(1.8))
    decision = decide(run)
    assert decision.to_json()["better_choice"] == "int8"
    assert "int8_better" in decision.result["verdict"]["reasons"]


def test_int8_without_times_is_compared_but_never_better(made: Path) -> None:
    """The arm of the confirmation has no speed-up: its quality stands in the controls, and the choice stays open."""
    decision = decide(made)

    row = {rival["name"]: rival for rival in decision.rivals}["int8"]
    assert (row["state"], row["n"], row["skip_rate"]) == ("not_better", 40, 0.0)
    control = next(row for row in decision.result["controls"] if row["name"] == "int8")
    assert (control["skip_rate"], control["item_accuracy"]) == (0.0, pytest.approx(0.997))


def test_detail_and_business_figures_are_stored_and_reproduced(run: Path) -> None:
    """Flips, slices, noise floor, documents, rivals and return are in the result; a changed record shows in them."""
    stored = read_json(run / "result.json")
    detail, money = stored["detail"], stored["economics"]

    assert (detail["flips"]["harmful"]["n"], detail["flips"]["helpful"]["n"], detail["flips"]["n"]) == (2, 0, 1000)
    assert [row["name"] for row in detail["slices"]] == ["all"]
    assert (detail["noise_floor"]["n"], detail["noise_floor"]["changed"]["share"]) == (32, 0.0)
    assert (detail["documents"]["n"], len(detail["documents"]["worst"])) == (40, 5)
    assert all("document_id" not in row for row in detail["documents"]["worst"])
    assert (detail["graded"], detail["graded_reason"]) == ([], "answers_not_generated")
    assert money["roi"]["p10"] <= money["roi"]["p50"] <= money["roi"]["p90"]
    assert money["energy"]["reason"] == "energy_not_measured"

    change(run, "confirm", "arm-noise_floor.json", items=[])
    decision = decide(run)
    assert decision.result["detail"]["noise_floor"] is None
    assert {difference.path.split("/")[1] for difference in decision.differences} == {"detail"}
    assert decision.causes == ("records_changed",)


def test_a_load_test_at_the_peak_makes_a_full_go(tmp_path: Path) -> None:
    """With the promised times shown at the peak nothing is open, and the run folder alone says so again."""
    run = decided_run.make(tmp_path, tested_per_s=50.0)
    (tmp_path / "load.json").unlink()  # the copy in the run folder is enough

    decision = decide(run)
    assert (decision.is_same, decision.result["verdict"]["code"]) == (True, "go")
    assert decision.result["responses"]["basis"] == "load_test"
    assert gate(decision.result, "S3")["state"] == "pass"
    assert "負荷をかけたときの応答" in render(decision.result, "ja")


def test_a_load_test_below_its_share_of_the_peak_shows_nothing(tmp_path: Path) -> None:
    """At a tenth of a request per second the promised times say nothing about the peak."""
    decision = decide(decided_run.make(tmp_path, tested_per_s=0.1))

    assert decision.result["responses"]["load_test"]["is_at_target"] is False
    assert gate(decision.result, "S3")["reason"] == "not_at_target_load"
    assert decision.result["verdict"]["code"] == "conditional_go"


def test_failed_requests_refute_the_promise(run: Path, tmp_path: Path) -> None:
    """Two failed requests of a hundred leave no 99th percentile: the promise is missed, not open."""
    write_json(tmp_path / "load.json", decided_run.load_test(50.0, 400, n_failed=8))

    decision = decide(run, plan(tmp_path, cost={"load_test": "load.json"}))
    assert (gate(decision.result, "S3")["state"], gate(decision.result, "S3")["reason"]) == ("fail", "slo_missed")
    assert decision.result["verdict"]["code"] == "no_go"


def test_a_load_test_handed_in_later_is_a_deviation_with_effect(run: Path, tmp_path: Path) -> None:
    """The plan named none; the verdict becomes a Go, and setting and file are told."""
    write_json(tmp_path / "load.json", decided_run.load_test(50.0))

    decision = decide(run, plan(tmp_path, cost={"load_test": "load.json"}))
    assert decision.result["verdict"]["code"] == "go"
    assert {row.setting for row in decision.deviations} == {"cost.load_test", "load test file"}
    assert "load_test_changed" in decision.causes


@pytest.mark.parametrize(("content", "message"), [
    (None, "is not there"), ("[1]", "JSON object, got list"), ("{", "cannot be used"),
    ('{"schema_version": 1}', "cannot be used"),
])  # fmt: skip
def test_an_unusable_load_test_is_one_clear_error(run: Path, tmp_path: Path, content: str | None, message: str) -> None:
    """A file that is missing, no JSON or no load test names the setting and what to do."""
    if content is not None:
        (tmp_path / "load.json").write_text(content, "utf-8")

    with pytest.raises(PocError, match=message) as caught:
        decide(run, plan(tmp_path, cost={"load_test": "load.json"}))
    assert "cost.load_test" in str(caught.value)


def test_openings_of_the_same_test_split_are_counted(run: Path) -> None:
    """An earlier confirmation on the same text counts, a later one and one on other text do not."""
    store = run.parent / "store"
    decided_run.stage(store, "sweep", "b2", {}, "2026-11-20T00:00:00+00:00", ingest="a", questions="q")
    decided_run.stage(store, "sweep", "b3", {}, "2026-11-20T00:00:00+00:00", ingest="a", questions="other")
    decided_run.stage(store, "confirm", "early", {}, "2026-11-21T00:00:00+00:00", sweep="b2")
    decided_run.stage(store, "confirm", "late", {}, "2026-11-30T00:00:00+00:00", sweep="b2")
    decided_run.stage(store, "confirm", "elsewhere", {}, "2026-11-21T00:00:00+00:00", sweep="b3")
    decided_run.stage(store, "confirm", "lost", {}, "2026-11-21T00:00:00+00:00", sweep="gone")

    assert count_openings(store, "c") == 2
    assert count_openings(store, "late") == 3
    assert count_openings(store, "nowhere") == 0
    decision = decide(run)
    assert decision.result["data"]["test_openings"] == 2
    assert gate(decision.result, "D1")["reason"] == "test_opened_again"
    assert decision.result["verdict"]["code"] == "conditional_go"


def test_missing_records_name_the_stage(run: Path) -> None:
    """Without the store nothing can be recomputed; the message says which stage and what to do."""
    shutil.rmtree(next(run.parent.glob("store/measure-*")))

    with pytest.raises(PocError, match=r"stage measure.*\n.*where.*\n.*store"):
        decide(run)


def test_a_price_file_that_is_gone_is_named(run: Path, tmp_path: Path) -> None:
    """The plan's own price file has to be given when it is not where the plan says."""
    with pytest.raises(PocError, match="--prices"):
        decide(run, plan(tmp_path, cost={"prices": "elsewhere.yaml"}))


def test_the_command_tells_costs_with_tax_and_dates(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 for a reproduced verdict; yen without and with tax, and the date of the exchange rate."""
    assert main(["decide", str(made)]) == 0

    out = capsys.readouterr().out
    assert "figures: all as stored" in out
    assert "without / with 10% tax" in out
    assert "157.25 yen per dollar of 2026-10-30" in out
    assert "better choice: skip" in out


def test_a_bad_day_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The day must be a date."""
    with pytest.raises(SystemExit):
        main(["decide", str(made), "--on", "yesterday"])
    assert "YYYY-MM-DD" in capsys.readouterr().err


def test_differences_are_found_and_rounding_is_not_one() -> None:
    """Types, lengths and keys count; the tenth digit does not."""
    old = {"a": [1, 2.0], "b": {"c": 1.0, "gone": None}, "d": True, "e": [1], "n": 1}
    new = {"a": [1, 2.0000000000002], "b": {"c": 1.1}, "d": 1, "e": [1, 2], "n": 1.0}

    assert [(row.path, row.recomputed) for row in differences(old, new)] == [("/b/c", 1.1), ("/d", 1), ("/e", [1, 2])]


@pytest.mark.parametrize("language", ["ja", "en"])
def test_every_new_code_has_a_sentence(language: str) -> None:
    """Reasons of rivals, of missing business figures and of differences are explained in both languages."""
    reasons = {*codes.RIVAL_REASONS, *codes.ECONOMICS_REASONS, *codes.DIFFERENCE_CAUSES, *codes.DETAIL_REASONS}

    assert {f"reason.{code}" for code in reasons} - messages(language).keys() == set()
