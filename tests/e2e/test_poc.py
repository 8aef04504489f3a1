"""The whole PoC on a tiny model: what a run leaves behind, and what a second one takes from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lxml import html as lxml_html
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows.poc import N_STAGES
from flows.tracking import STAGE_TAG
from reports.render import render
from reports.result import validate
from skipmodel.guards import ServingGuards
from tests.e2e.conftest import ROOT, Finished, TinyPoc, read_result, run_here, snapshot
from tests.unit.reports import test_render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["ingest", "base", "dense-tune", "calibrate", "skip-tune", "sweep", "confirm", "insight", "measure"]


def mlflow_runs(runs: Path) -> tuple[MlflowClient, list[Run]]:
    """Return a client of the runs folder's MLflow file, and all runs in it."""
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("skiplayer-poc: Tiny PoC")
    return client, list(client.search_runs([experiment.experiment_id], max_results=200))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a result that no repetition may change."""
    return {key: result[key] for key in ("data", "sweep", "controls", "choice", "confirmation", "speed", "hashes")}


def test_a_run_ends_with_report_result_and_link(finished: Finished) -> None:
    """`runs/latest` names a folder with a valid result.json, the report and the plots; every stage was announced."""
    result = finished.result
    validate(result)
    page = (finished.runs / "latest" / "report.html").read_text("utf-8")

    assert (finished.runs / "latest").is_symlink()
    assert result["run"]["id"] == finished.folder.name
    assert [stage["name"] for stage in result["stages"]] == STAGES
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert list((finished.folder / "plots").iterdir())
    for number in range(1, N_STAGES + 1):
        assert f"[{number}/{N_STAGES}] " in finished.output
    assert str(finished.folder / "report.html") in finished.output
    assert "Traceback" not in finished.output


def test_a_chosen_threshold_is_confirmed_once(finished: Finished) -> None:
    """With a threshold chosen on validation the test split is opened once, every control beside it."""
    result = finished.result

    assert result["choice"]["sweep_index"] == 3
    assert [row["chosen"] for row in result["sweep"]] == [False, False, False, True]
    assert result["data"]["test_openings"] == 1
    assert result["confirmation"]["n_items"] == 8
    names = {"skiplayer", "random_mask", "static_drop", "base_untuned", "int8"}
    assert {row["name"] for row in result["controls"]} >= names
    assert result["confirmation"]["n_tokens"] == result["data"]["scored_tokens"]["test"]


def test_int8_and_the_noise_floor_are_scored_on_the_same_split(finished: Finished) -> None:
    """The int8 arm has the documents and items of the skip model, a time of its own, and a row among the rivals."""
    result = finished.result
    (folder,) = (finished.runs / "store").glob("confirm-*[0-9a-f]")
    arm, own, floor = (
        json.loads((folder / f"arm-{name}.json").read_text("utf-8")) for name in ("int8", "skiplayer", "noise_floor")
    )
    rival = next(row for row in result["rivals"] if row["name"] == "int8")

    for kind, key in (("documents", "document_id"), ("items", "item_id")):
        assert [row[key] for row in arm[kind]] == [row[key] for row in own[kind]]
    assert arm["skip_rate"] == 0.0
    assert rival["timing"]["n_pairs"] == 3
    assert rival["timing"]["low"] <= rival["timing"]["speedup"] <= rival["timing"]["high"]
    assert (rival["state"], rival["n"]) == ("not_better", len(arm["documents"]))
    assert result["detail"]["noise_floor"]["n"] == floor["n"] == len(floor["items"]) == 8
    assert result["responses"]["basis"] == "sequential"
    assert result["economics"]["roi"]["prob_positive"] is not None


def test_both_models_answer_the_questions_of_the_one_opening(finished: Finished) -> None:
    """The confirmed questions are answered in the confirmation itself; texts stay in a file of the store's owner."""
    result = finished.result
    (folder,) = (finished.runs / "store").glob("confirm-*[0-9a-f]")
    own = json.loads((folder / "arm-skiplayer.json").read_text("utf-8"))
    kept = json.loads((folder / "answers.json").read_text("utf-8"))
    page = (finished.folder / "report.html").read_text("utf-8")

    assert [row["item_id"] for row in kept["items"]] == [row["item_id"] for row in own["items"]]
    assert (folder / "answers_text.json").stat().st_mode & 0o777 == 0o600
    assert result["data"]["test_openings"] == 1
    assert (result["detail"]["answers"]["n"], result["detail"]["answers"]["n_samples"]) == (8, 3)
    assert {row["metric"] for row in result["detail"]["graded"]} == {"exact_match", "char_f1", "token_f1"}
    assert result["answer_samples"] is None
    assert "A4 回答の自己一致" in page


def test_guards_have_their_costs_measured_and_a_band_to_serve_with(finished: Finished) -> None:
    """Lifting all guards at the chosen threshold skips more; the band and the terms lie beside, out of MLflow."""
    (folder,) = (finished.runs / "store").glob("insight-*[0-9a-f]")
    measured = json.loads((folder / "guard_costs.json").read_text("utf-8"))
    by_guard = {row["lifted"]: row for row in measured["rows"]}
    guards = ServingGuards.load(folder)
    client, runs = mlflow_runs(finished.runs)
    insight = next(run for run in runs if run.info.run_name == "insight")
    logged = {file.path for file in client.list_artifacts(insight.info.run_id)}

    assert by_guard["none lifted"]["skip_rate"] > 0
    assert by_guard["all lifted"]["skip_rate_cost"] > 0
    assert guards.sequences
    assert guards.band is not None
    assert [guards.band.low, guards.band.high] == [measured["band"]["low"], measured["band"]["high"]]
    assert "guard_costs.json" in logged
    assert "guards.json" not in logged


def test_threshold_zero_is_the_dense_model(finished: Finished) -> None:
    """The first sweep row, and the control that executes everything, are dense to the last bit."""
    row = finished.result["sweep"][0]
    executed = next(control for control in finished.result["controls"] if control["name"] == "all_executed")

    assert (row["threshold"], row["skip_rate"]) == (0.0, 0.0)
    assert (row["ppl_rise"], row["agreement"]) == (0.0, 1.0)
    assert row["ppl"] == row["ppl_dense"]
    assert row["item_accuracy"] == row["item_accuracy_dense"]
    assert executed["ppl_rise"] == 0.0
    assert all(row["skip_rate"] > 0 for row in finished.result["sweep"][1:])


def test_mlflow_holds_one_parent_and_its_nested_runs(finished: Finished) -> None:
    """One parent run with plan and artifacts; nested ones for tuning, each sweep point and the confirmation."""
    client, runs = mlflow_runs(finished.runs)
    result = finished.result
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "poc"]
    nested = {run.info.run_name: run for run in runs if run is not parent}
    points = [f"sweep point {row['index']}" for row in result["sweep"]]

    assert result["run"]["mlflow"]["run_id"] == parent.info.run_id
    assert {run.info.status for run in runs} == {"FINISHED"}
    weeks = {run.info.run_id for run in nested.values() if run.data.tags["kind"] == "week"}
    assert len(weeks) == 4
    assert {nested[name].data.tags["mlflow.parentRunId"] for name in STAGES} == weeks
    assert {nested[name].data.tags["mlflow.parentRunId"] for name in points} == {nested["sweep"].info.run_id}
    assert set(nested) >= {*STAGES, *points}
    assert len(nested) == len({run.data.tags[STAGE_TAG] for run in nested.values()})
    assert parent.data.params["model.dense_tune.steps"] == "4"
    assert nested[points[2]].data.metrics["ppl"] == pytest.approx(result["sweep"][2]["ppl"])
    losses = client.get_metric_history(nested["dense-tune"].info.run_id, "loss")
    assert [metric.step for metric in losses] == sorted({metric.step for metric in losses})
    assert len(losses) >= 2
    assert len(nested["ingest"].inputs.dataset_inputs) == 3


def test_mlflow_has_the_files_of_the_run(finished: Finished) -> None:
    """Report, result.json and plots are artifacts of the parent run, byte by byte those of the run folder."""
    client, runs = mlflow_runs(finished.runs)
    parent = next(run for run in runs if run.data.tags.get("kind") == "poc")
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    plots = {path.name for path in (finished.folder / "plots").iterdir()}
    kept = finished.runs / "mlartifacts" / parent.info.run_id / "artifacts"

    assert plots
    assert names == {"report.html", "summary.md", "result.json", *plots}
    for name in ("report.html", "result.json"):
        assert (kept / name).read_bytes() == (finished.folder / name).read_bytes()


@pytest.mark.parametrize("language", ["ja", "en"])
def test_every_figure_of_the_report_is_in_the_result(finished: Finished, language: str) -> None:
    """The checks of the report's own tests hold for a real result too, in both languages."""
    result = finished.result
    text = (finished.folder / "report.html").read_text("utf-8") if language == "ja" else render(result, language)

    class Real:
        BUILDERS = {"real": lambda: result}  # noqa: RUF012 - a stand-in for the module of hand-made results

    def page(_: str, __: str) -> str:
        return text

    parse = lxml_html.document_fromstring
    test_render.test_every_figure_is_found_in_the_result(Real, page, parse, "real", language)
    test_render.test_no_figure_stands_in_a_table_or_tile_without_its_address(page, parse, "real", language)


def test_a_second_run_computes_nothing(finished: Finished) -> None:
    """The same command again takes every stage as it is: no file of the store changes, nor does any number."""
    store, outcome = snapshot(finished.runs / "store"), numbers(finished.result)
    _, runs_before = mlflow_runs(finished.runs)

    folder = run_here(finished.settings, finished.runs)

    _, runs_after = mlflow_runs(finished.runs)
    assert folder.resolve() == finished.folder
    assert snapshot(finished.runs / "store") == store
    assert numbers(read_result(folder)) == outcome
    assert {run.info.run_id for run in runs_after} == {run.info.run_id for run in runs_before}


def test_another_language_is_only_another_report(finished: Finished, variants: Path) -> None:
    """report.language reaches no stage: all are taken as they are, and the report is in English."""
    folder = run_here(finished.poc.plan("en.yaml", report={"language": "en"}), variants)
    result = read_result(folder)

    assert all(stage["reused"] for stage in result["stages"])
    assert numbers(result) == numbers(finished.result)
    assert result["run"]["plan_sha256"] == finished.result["run"]["plan_sha256"]
    assert '<html lang="en"' in (folder / "report.html").read_text("utf-8")


def test_other_prices_reach_the_cost_alone(finished: Finished, variants: Path) -> None:
    """A price file with a dearer dollar changes yen and plan, but no stage, perplexity or timing."""
    text = (ROOT / "kpis" / "prices.yaml").read_text("utf-8")
    prices = finished.poc.folder / "prices.yaml"
    prices.write_text(text.replace("aws-g6e-xlarge-tokyo\n", "aws-g6e-xlarge-tokyo-renamed\n"), "utf-8")
    changes = {"prices": "prices.yaml", "price": "aws-g6e-xlarge-tokyo-renamed"}
    result = read_result(run_here(finished.poc.plan("other_prices.yaml", cost=changes), variants))
    before, after = finished.result, result

    assert all(stage["reused"] for stage in after["stages"])
    assert {k: v for k, v in numbers(after).items() if k != "hashes"} == {
        k: v for k, v in numbers(before).items() if k != "hashes"
    }
    assert after["hashes"]["prices"] != before["hashes"]["prices"]
    assert after["cost"]["per_mtok_jpy"] != before["cost"]["per_mtok_jpy"]
    assert after["run"]["plan_sha256"] != before["run"]["plan_sha256"]


def test_without_a_passing_threshold_the_test_stays_closed(finished: Finished, variants: Path) -> None:
    """Nothing passes on validation: no confirmation, no control, no opened test; speed and report all the same."""
    plan = finished.poc.plan("strict.yaml", gates={"min_agreement": 1.0})
    folder = run_here(plan, variants)
    result = read_result(folder)
    validate(result)

    assert result["choice"]["threshold"] is None
    assert result["confirmation"] is None
    assert result["controls"] == []
    assert result["data"]["test_openings"] == 0
    assert "confirm" not in [stage["name"] for stage in result["stages"]]
    assert result["verdict"]["code"].startswith("no_go")
    assert [row["is_headline"] for row in result["speed"]].count(True) == 1
    assert next(gate for gate in result["gates"] if gate["id"] == "Q1")["state"] == "not_measured"
    assert (folder / "report.html").is_file()


def test_samples_are_shown_only_when_asked_for(finished: Finished, variants: Path) -> None:
    """Tokens of the passages are null, and with include_samples they are the tokens of validation text."""
    shown = read_result(run_here(finished.poc.plan("samples.yaml", report={"include_samples": True}), variants))

    assert [passage["tokens"] for passage in finished.result["passages"]] == [None, None]
    assert [row["id"] for row in shown["answer_samples"]] == ["A1", "A2", "A3"]
    assert all(row["reference"] for row in shown["answer_samples"])
    assert shown["data"]["test_openings"] == 1
    for passage, hidden in zip(shown["passages"], finished.result["passages"], strict=True):
        assert len(passage["tokens"]) == hidden["n_tokens"] == passage["n_tokens"]
        assert passage["skipped_layers"] == hidden["skipped_layers"]


def test_tiny_poc_holds_both_languages(tiny_poc: TinyPoc, finished: Finished) -> None:
    """The fixture is what the tests take it for: two languages, three splits, critical tokens."""
    data = finished.result["data"]

    assert min(data["languages"].values()) > 0.1
    assert min(data["n_documents"].values()) >= 2
    assert min(data["n_critical_tokens"].values()) >= 10
    assert data["n_quarantined"] == 0
    assert tiny_poc is finished.poc
