"""`skip-poc compare` on the tiny PoC: every method from end to end, a kill in the middle, MLflow and history."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from flows.compare import run_compare
from flows.progress import Progress
from reports.messages import messages
from skipmodel.config_compare import ABLATIONS, METHODS, WITHOUT_CHANCE, CompareConfig
from tests.e2e.conftest import CLI_TIMEOUT_S, GUARD, MARKER, ROOT, TinyPoc, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RATES = (0.1, 0.3)
CONFIG = CompareConfig(skip_rates=RATES, seeds=2, steps=2)
SMALL = CompareConfig(
    methods=("skiplayer", "static_path", "random_mask", "dense_continued"), skip_rates=RATES, seeds=1, steps=3
)
CHANGES: dict[str, Any] = {"corpus": {"questions": None}, "report": {"language": "en"}}


def compare(plan: Path, runs: Path, config: CompareConfig, history: Path | None = None) -> dict[str, Any]:
    """Compare within this process, which spares the start of another one."""
    return run_compare(plan, None, runs, runs / "compare", config, Progress(stream=io.StringIO()), history)


def take_over(compared: Compared, runs: Path, *stages: str) -> Path:
    """Copy finished stages of the large comparison into another runs folder and return that."""
    for found in (compared.runs / "store").iterdir():
        if found.name.startswith(("ingest-", "base-", "dense-tune-", *stages)):
            shutil.copytree(found, runs / "store" / found.name)
    return runs


@dataclass(frozen=True)
class Compared:
    """A comparison of every method."""

    runs: Path
    history: Path
    written: dict[str, Any]

    def rows(self, method: str) -> list[dict[str, Any]]:
        """Rows of one method."""
        return [row for row in self.written["rows"] if row["method"] == method]


@pytest.fixture(scope="module")
def compared(tiny_poc: TinyPoc, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Every method, two seeds, two steps."""
    folder = tmp_path_factory.mktemp("compared")
    written = compare(tiny_poc.plan("compare.yaml", **CHANGES), folder / "runs", CONFIG, folder / "history")
    return Compared(folder / "runs", folder / "history", written)


def test_every_method_is_trained_and_judged(compared: Compared) -> None:
    """Each has its rows, seed by seed, at the rates that its routing can reach.

    Two steps do not move the bottleneck router from executing everything: that is told, and it is judged all the same.
    """
    problems = compared.written["problems"]
    assert {problem["method"] for problem in problems} <= {"router_bottleneck"}
    assert all("collapsed to all-execute" in problem["problem"] for problem in problems)
    assert compared.written["left_out"] == ["lora_off"]
    assert compared.written["is_complete"]
    for method in METHODS:
        if method == "lora_off":
            continue
        rows = compared.rows(method)
        seeds = 1 if method in (*WITHOUT_CHANCE, *ABLATIONS) else 2
        assert {row["seed"] for row in rows} == set(range(seeds)), method
        assert all(row["ppl"] > 0 and row["low"] <= row["ppl_rise"] <= row["high"] for row in rows), method


def test_what_skips_nothing_stands_at_zero(compared: Compared) -> None:
    """References have one row without a skip; the dense tuned model rises by exactly nothing against itself."""
    for method in ("base_untuned", "dense_tuned", "dense_continued", "int8", "all_executed"):
        assert {row["skip_rate"] for row in compared.rows(method)} == {0.0}, method
    (dense,) = compared.rows("dense_tuned")
    assert (dense["ppl_rise"], dense["low"], dense["high"], dense["critical_recall"]) == (0.0, 0.0, 0.0, 1.0)
    assert compared.rows("base_untuned")[0]["ppl_rise"] != 0.0
    assert compared.rows("int8")[0]["ppl_rise"] != 0.0
    # the base stays frozen here, so that with nothing skipped the tuned weights are the dense ones
    assert {row["ppl_rise"] for row in compared.rows("all_executed")} == {0.0}


def test_layers_are_dropped_whole(compared: Compared) -> None:
    """Six layers: one and two of them are the neighbours of 10 % and 30 %."""
    for method in ("static_path", "static_identity", "truncated"):
        assert [row["skip_rate"] for row in compared.rows(method)] == pytest.approx([1 / 6, 2 / 6] * 2), method


def test_guards_keep_critical_tokens_and_switching_them_off_does_not(compared: Compared) -> None:
    """With guards every critical token executes everything; without, some do not, at about the same rate."""
    assert {row["critical_recall"] for row in compared.rows("skiplayer")} == {1.0}
    off = [row for row in compared.rows("skiplayer_guards_off") if row["target_skip_rate"] == 0.3]
    assert all(row["critical_recall"] < 0.9 for row in off)


def test_the_random_mask_follows_the_measured_rates(compared: Compared) -> None:
    """It skips what the own method skipped at the same target and seed, up to chance."""
    own = {(row["seed"], row["target_skip_rate"]): row["skip_rate"] for row in compared.rows("skiplayer")}
    random = {(row["seed"], row["target_skip_rate"]): row["skip_rate"] for row in compared.rows("random_mask")}

    assert random.keys() == own.keys()
    assert all(random[key] == pytest.approx(own[key], abs=0.05) for key in own)


def test_seeds_differ(compared: Compared) -> None:
    """Two trainings of one method give two models."""
    for method in ("skiplayer", "static_identity", "early_exit", "mixture_of_depths", "linear_router"):
        by_seed = [[row["ppl"] for row in compared.rows(method) if row["seed"] == seed] for seed in (0, 1)]
        assert by_seed[0] != by_seed[1], method


def test_claims_follow_from_the_rows(compared: Compared) -> None:
    """Every claim of the issue is there, with the numbers it rests on, for every rate that was judged."""
    found = compared.written["claims"]

    assert [(claim["rival"], claim["target_skip_rate"]) for claim in found["below"]] == [
        (rival, rate) for rival in ("static_path", "random_mask") for rate in RATES
    ]
    assert [claim["skip_rate"] for claim in found["rise_at"]] == [0.2, 0.3]
    assert [claim["holds"] for claim in found["critical_recall"]] == [True, True]
    for claim in found["below"]:
        if claim["holds"] is not None:
            assert claim["holds"] == (claim["high"] < claim["rival_low"])


def test_calibrations_are_shared(compared: Compared) -> None:
    """All arms together made seven of them, and every stage was finished."""
    names = [path.name for path in (compared.runs / "store").iterdir() if path.is_dir()]

    assert sum(name.startswith("compare-start-") for name in names) == 7
    assert not [name for name in names if name.endswith(".partial")]
    assert not list((compared.runs / "store").glob("compare-*/checkpoints"))


def test_the_figures_are_in_the_language_of_the_report(compared: Compared) -> None:
    """Both SVG files parse and name what they show."""
    for name, method in (("compare", "static_path"), ("compare_ablations", "kv_drop")):
        root = ET.fromstring((compared.runs / "compare" / f"{name}.svg").read_text("utf-8"))
        texts = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert messages("en")[f"control.{method}"] in texts


def test_history_holds_the_rows_and_where_they_come_from(compared: Compared) -> None:
    """One file of date and commit, columns as agreed, no path and no text of the corpus."""
    (path,) = compared.history.iterdir()
    text = path.read_text("utf-8")
    found = json.loads(text)
    facts = found["bases"]["base"]

    assert path.name.startswith(f"compare_{compared.written['date']}_")
    assert len(found["rows"]) == len(compared.written["rows"])
    assert set(found["rows"][0]) == {
        "method", "base", "seed", "skip_rate", "ppl", "ppl_rise", "low", "high", "critical_recall",
    }  # fmt: skip
    assert facts["steps"] == 2
    assert facts["tokens"]["training"] == 2 * 2 * 64
    assert {"cpu", "threads", "versions"} <= set(facts["environment"])
    for written in (text, (compared.runs / "compare" / "compare.json").read_text("utf-8")):
        assert str(compared.runs.parent) not in written
        assert MARKER.split()[1] not in written


def _mlflow(runs: Path) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("skiplayer-poc: Tiny PoC")
    return list(client.search_runs([experiment.experiment_id], max_results=200))


def test_mlflow_has_one_nested_run_per_method_and_seed(compared: Compared) -> None:
    """Under one parent of its own kind; each with its rows by rate, trainings with their curves."""
    runs = _mlflow(compared.runs)
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "compare"]
    arms = [run for run in runs if run is not parent]
    expected = {(row["method"], str(row["seed"])) for row in compared.written["rows"]}

    assert parent.info.run_id == compared.written["mlflow"]["run_id"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in arms} == {parent.info.run_id}
    assert sorted((run.data.params["method"], run.data.params["seed"]) for run in arms) == sorted(expected)
    own = next(run for run in arms if run.info.run_name == "skiplayer seed 0")
    last = max((row for row in compared.rows("skiplayer") if row["seed"] == 0), key=lambda row: row["skip_rate"])
    assert own.data.metrics["ppl_rise"] == pytest.approx(last["ppl_rise"])
    assert "train/kl" in own.data.metrics


def test_a_repetition_computes_nothing(compared: Compared, tiny_poc: TinyPoc) -> None:
    """The same command again finds every arm, writes the same rows and adds no run to MLflow."""
    before, n_runs = snapshot(compared.runs / "store"), len(_mlflow(compared.runs))
    again = compare(tiny_poc.folder / "compare.yaml", compared.runs, CONFIG)

    assert snapshot(compared.runs / "store") == before
    assert again["rows"] == compared.written["rows"]
    assert len(_mlflow(compared.runs)) == n_runs


def test_a_killed_comparison_goes_on_with_what_is_missing(
    compared: Compared, tiny_poc: TinyPoc, tmp_path: Path
) -> None:
    """Killed between two points of static drop: what was finished stays, the end is that of an undisturbed one."""
    plan = tiny_poc.plan("compare.yaml", **CHANGES)
    runs, calm = take_over(compared, tmp_path / "runs"), take_over(compared, tmp_path / "calm")
    undisturbed = compare(plan, calm, SMALL)
    moment = "*/compare-static_path-0-*.partial/point-01.json"
    code = (
        "import sys; from pathlib import Path; from flows import runtime; plan, runs = map(Path, sys.argv[1:]); "
        "runtime.prepare(runs); from tests.e2e.test_compare import compare, SMALL; compare(plan, runs, SMALL)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": f"{GUARD}:{ROOT}",
                   "SKIP_POC_TEST_KILL_AT": moment, "OMP_NUM_THREADS": "1"}  # fmt: skip
    killed = subprocess.run(
        [sys.executable, "-c", code, str(plan), str(runs)], cwd=tmp_path, env=environment, timeout=CLI_TIMEOUT_S,
        capture_output=True, check=False,
    )  # fmt: skip
    after = snapshot(runs / "store")
    partial = json.loads((runs / "compare" / "compare.json").read_text("utf-8"))
    finished = compare(plan, runs, SMALL)
    at_end = {name.replace(".partial/", "/"): value for name, value in after.items() if ".json." not in name}

    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [row["method"] for row in partial["rows"]] == ["dense_tuned", "skiplayer", "skiplayer"]
    assert not partial["is_complete"]
    assert any(name.endswith("partial/point-00.json") and "static_path" in name for name in after)
    store = snapshot(runs / "store")
    kept = {name for name in at_end if name in store and store[name] == at_end[name]}
    assert {name for name in at_end if Path(name).name.startswith(("point-", "stage.json"))} <= kept
    assert finished["rows"] == undisturbed["rows"]
    assert {run.info.status for run in _mlflow(runs)} == {"FINISHED"}
    assert len(_mlflow(runs)) == 1 + 1 + len(SMALL.methods)


def test_lora_moves_the_base_away_from_its_reference(compared: Compared, tiny_poc: TinyPoc, tmp_path: Path) -> None:
    """With LoRA in the recipe everything executed is no longer the dense model, and lora_off becomes the ablation."""
    plan = tiny_poc.plan("lora.yaml", **CHANGES, model={"skip_tune": {"lora_rank": 2, "learning_rate_lora": 0.05}})
    runs = take_over(compared, tmp_path / "runs")
    config = CompareConfig(methods=("all_executed", "lora_off", "lora_on"), skip_rates=(0.1,), seeds=1, steps=3)
    written = compare(plan, runs, config)

    assert written["left_out"] == ["lora_on"]
    rises = {row["method"]: row["ppl_rise"] for row in written["rows"]}
    assert rises["dense_tuned"] == 0.0
    assert rises["all_executed"] != 0.0
    assert {"skiplayer", "lora_off"} <= set(rises)


def test_a_control_that_cannot_be_made_says_why(compared: Compared, tiny_poc: TinyPoc, tmp_path: Path) -> None:
    """When every layer is too damaging to skip, arms have a reason instead of rows, and the comparison goes on."""
    plan = tiny_poc.plan("closed.yaml", **CHANGES, model={"skip": {"max_layer_damage_nats": 1e-9}})
    runs = take_over(compared, tmp_path / "runs")
    config = CompareConfig(methods=("all_executed", "truncated"), skip_rates=(0.2,), seeds=1, steps=2)
    written = compare(plan, runs, config)

    reasons = {problem["method"]: problem["problem"] for problem in written["problems"]}
    assert set(reasons) == {"skiplayer", "all_executed"}
    assert "max_layer_damage_nats" in reasons["skiplayer"]
    assert {row["method"] for row in written["rows"]} == {"dense_tuned", "truncated"}
    assert written["claims"]["below"] == []


def test_dropped_layers_can_be_healed_one_number_at_a_time(
    compared: Compared, tiny_poc: TinyPoc, tmp_path: Path
) -> None:
    """With heal_per_rate each number of layers gets a training of its own, and other weights come out."""
    plan = tiny_poc.plan("compare.yaml", **CHANGES)
    runs = take_over(compared, tmp_path / "runs", "compare-start-", "compare-dense_tuned-")
    config = CompareConfig(methods=("static_path",), skip_rates=RATES, seeds=1, steps=2, heal_per_rate=True)
    rows = [row for row in compare(plan, runs, config)["rows"] if row["method"] == "static_path"]
    together = [row for row in compared.rows("static_path") if row["seed"] == 0]

    assert [row["skip_rate"] for row in rows] == [row["skip_rate"] for row in together]
    assert [row["ppl"] for row in rows] != [row["ppl"] for row in together]
