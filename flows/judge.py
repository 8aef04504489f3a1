"""Judging a run: records of finished stages -> KPIs -> gates -> cost -> verdict, without a model.

Everything here is arithmetic on stored records, so `skip-poc decide` can do it again in seconds.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows import evaluation, timing
from flows.confirmed import detail, read_load_test
from flows.openings import count_openings
from flows.settings import price_path
from flows.store import read_json
from flows.workbench import Workbench
from kpis import cost as kpi_cost
from kpis import decide, quality, rivals, speed
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.economics import economics
from kpis.energy import energy
from kpis.load_test import asked_per_s, is_at_target, is_elsewhere, load_responses
from kpis.prices import load_prices
from kpis.records import DocumentPair, Evidence, ItemPair, TimingPairs, VerdictContext
from kpis.stats import Interval

RIVALS = ("static_drop", "int8")
"""Arms of the confirmation that a buyer could pick instead; one without a record stays None with its reason."""
Pairs = tuple[list[DocumentPair], list[ItemPair]]


@dataclass(frozen=True)
class Judged:
    """The part of a result that is arithmetic: everything from stored records, nothing from a model."""

    parts: dict[str, Any]
    """Keys of result.json, from `controls` to `verdict`."""
    test_openings: int


def _pairs(arm: dict[str, Any]) -> Pairs:
    documents = [DocumentPair.from_json(row) for row in arm["documents"]]
    return documents, [ItemPair.from_json(row) for row in arm["items"]]


def sweep_rows(bench: Workbench) -> list[dict[str, Any]]:
    """Return the `sweep` rows of result.json, each with its verdict, none chosen yet."""
    rows = []
    for point in evaluation.sweep_points(bench):
        documents, items = _pairs(point)
        row = quality.sweep_row(documents, items, seed=bench.settings.model.seed)
        row.pop("item_reason", None)
        names = ("index", "threshold", "target_skip_rate", "skip_rate", "skip_rate_per_layer", "estimated_ceiling")
        row |= {name: point[name] for name in names} | {"chosen": False}
        row["passes"], row["fail_reasons"] = quality.sweep_passes(row, bench.settings.gates)
        rows.append(row)
    return rows


def choose(bench: Workbench, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `choice` object, and the sweep point at which speed is measured.

    Without a passing threshold, speed is still measured, at the most conservative one: the report then shows
    what would have been gained.
    """
    choice = decide.choose(rows, bench.settings.gates)
    index = choice["sweep_index"]
    for row in rows:
        row["chosen"] = row["index"] == index
    points = evaluation.sweep_points(bench)
    return choice, points[index if index is not None else min(1, len(points) - 1)]


def controls(bench: Workbench) -> list[dict[str, Any]]:
    """Return the `controls` rows: every arm against the dense tuned model on the same test blocks."""
    names = {
        "base_untuned": "base_untuned",
        "dense_tuned": "dense_tuned",
        "skiplayer": "skiplayer",
        "guards_off": "guards_off",
        "random_mask": "random_mask",
        "static_drop": "static_drop",
        "all_executed": "all_executed",
        "int8": "int8",
    }
    notes = {"static_drop": "not_healed", "guards_off": "guards_off"}
    if _int8_timing(bench) is None:
        notes["int8"] = "quality_only"
    if same_weights(bench):
        notes["all_executed"] = "same_weights_as_dense"
    rows = []
    for name, file in names.items():
        path = bench.folder("confirm") / f"arm-{file}.json"
        if name == "int8" and not path.exists():  # a confirmation from before int8 was an arm
            continue
        arm = read_json(path)
        documents, items = _pairs(arm)
        rise: Interval = quality.ppl_rise(documents, seed=bench.settings.model.seed)
        nll_skip = sum(document.nll_skip for document in documents)
        n_bytes = sum(document.n_bytes for document in documents)
        rows.append(
            {
                "name": name,
                "split": "test",
                "skip_rate": arm["skip_rate"],
                "ppl": quality.perplexity(nll_skip, sum(document.n_tokens for document in documents)),
                "ppl_rise": rise.value,
                "ppl_rise_low": rise.low,
                "ppl_rise_high": rise.high,
                "bits_per_byte": quality.bits_per_byte(nll_skip, n_bytes),
                "item_accuracy": float(np.mean([item.skip_correct for item in items])) if items else None,
                "note": notes.get(name),
            }
        )
    return rows


def same_weights(bench: Workbench) -> bool:
    """Tell whether the skip model executes with the dense tuned weights: its fine-tune left the base frozen."""
    tune = bench.settings.model.skip_tune
    return tune.lora_rank == 0 or tune.steps == 0


def confirmed_pairs(bench: Workbench) -> Pairs:
    """Return the paired records of the one confirmatory test."""
    return _pairs(read_json(bench.folder("confirm") / "arm-skiplayer.json"))


def confirmation(bench: Workbench) -> tuple[dict[str, Any], Pairs]:
    """Return the `confirmation` object and the pairs it comes from."""
    arm = read_json(bench.folder("confirm") / "arm-skiplayer.json")
    floor = read_json(bench.folder("confirm") / "arm-noise_floor.json")
    documents, items = _pairs(arm)
    n_layers = len(arm["skip_rate_per_layer"])
    by_class = {
        row["class"]: (round((1 - row["skip_rate"]) * row["n"] * n_layers), row["n"] * n_layers)
        for row in arm["skip_rate_by_class"]
    }
    result = quality.confirmation(
        documents, items, skip_rate=arm["skip_rate"], skip_positions_by_class=by_class,
        noise_floor_flips=floor["n_flips"] if floor["n"] else None, limits=bench.settings.gates,
        seed=bench.settings.model.seed,
    )  # fmt: skip
    return result, (documents, items)


def speed_rows(bench: Workbench) -> tuple[list[dict[str, Any]], list[TimingPairs]]:
    """Return the `speed` rows, and the pairs of the operating point: decode, then prefill."""
    rows, headline = [], []
    for cell in timing.timing_rows(bench):
        # where the engagement rule says dense, its own arm is what a user of it waits for
        is_dense = cell.get("rule_s") is not None
        skip_s = tuple(cell["rule_s"] if is_dense else cell["skip_s"])
        pairs = TimingPairs(cell["phase"], cell["batch"], tuple(cell["dense_s"]), skip_s)
        rate, ceiling = cell["skip_rate"], cell["estimated_ceiling"]
        trained = cell["routing"] == "trained"
        rows.append(
            speed.speed_row(
                pairs, prompt_tokens=cell["prompt_tokens"], output_tokens=cell["output_tokens"], dtype=cell["dtype"],
                backend=cell["backend"], routing=cell["routing"], skip_rate=rate,
                skippable_time_share=0.0 if rate == 0 else (1 - 1 / ceiling) / rate,
                is_headline=trained and cell["phase"] == "decode",
            )
            | {"engaged": cell.get("engaged"), "measured_speedup_without_rule": cell.get("speedup")}
        )  # fmt: skip
        if trained:
            headline.append(pairs)
    return rows, headline


def cost_inputs(bench: Workbench, pairs: list[TimingPairs], confirmed: dict[str, Any] | None) -> CostInputs:
    """Return what the cost model is told: measured seconds and stage hours, and the figures of the plan."""
    cost = bench.settings.cost
    decode, prefill = pairs
    request = speed.request_pairs(prefill, decode, cost.output_tokens)
    hours = sum(stage.seconds for stage in bench.stages.values()) / 3600
    return CostInputs(
        dense_request_s=float(np.median(request.dense_s)),
        speed=speed.estimate(request),
        volume=Volume(cost.requests_per_month, cost.input_tokens, cost.output_tokens, cost.peak_requests_per_s,
                      cost.hours_per_month),
        spending=Spending(engineer_day_jpy=cost.engineer_jpy_per_day, investment_engineer_days=cost.engineer_days,
                          investment_gpu_hours=hours, upkeep_other_jpy_per_month=cost.upkeep_jpy_per_month,
                          retuning_months=cost.retuning_months),
        spot_share=cost.spot_share,
        target_load=cost.target_load, horizon_months=cost.horizon_months, discount_rate=cost.discount_rate,
        accuracy_dense=None if confirmed is None else confirmed["accuracy_dense"],
        accuracy_skip=None if confirmed is None else confirmed["accuracy_skip"], basis="measured_this_machine",
    )  # fmt: skip


def pricing(bench: Workbench) -> dict[str, Any]:
    """Return the keyword arguments of `kpis.cost.cost` and `kpis.economics.economics` that a plan decides."""
    settings = bench.settings
    return {
        "gpu_id": settings.cost.price, "api_id": settings.cost.api, "limits": settings.gates,
        "on": datetime.date.fromisoformat(bench.run.created_at[:10]), "seed": settings.model.seed,
    }  # fmt: skip


def rival_rows(bench: Workbench, headline: dict[str, Any], *, is_chosen: bool) -> list[dict[str, Any]]:
    """Return whether a simpler arm of the confirmation is the better choice; nothing is, when none was confirmed."""
    timed = _int8_timing(bench)

    def arm(name: str) -> rivals.Arm | None:
        path = bench.folder("confirm") / f"arm-{name}.json"
        if not path.exists():
            return None
        record = read_json(path)
        low = timed["low"] if name == "int8" and timed is not None else None
        return rivals.Arm(_pairs(record)[0], record["skip_rate"], low)

    own = arm("skiplayer") if is_chosen else None
    others = {name: None if own is None else arm(name) for name in RIVALS}
    gates = bench.settings.gates
    rows = rivals.rivals(own, others, headline["measured_speedup"], gates.alpha, bench.settings.model.seed)
    return [row | {"timing": timed if row["name"] == "int8" else None} for row in rows]


def _int8_timing(bench: Workbench) -> dict[str, Any] | None:
    """Return the paired timing of int8 weights against dense, without its samples; None where it was not timed."""
    row = timing.int8_row(bench)
    if row is None or row["speedup"] is None:
        return None
    names = ("phase", "batch", "output_tokens", "dtype", "speedup", "low", "high", "n_pairs")
    medians = {name: float(np.median(row[name])) for name in ("dense_s", "other_s")}
    return {"routing": "dense", "prompt_tokens": row["prompt"], **{name: row[name] for name in names}, **medians}


def responses(bench: Workbench, pairs: list[TimingPairs], n_replicas: int) -> dict[str, Any]:
    """Return the `responses` object: from the load test if there is one, else from requests one after the other.

    Args:
        bench: The run.
        pairs: Decode and prefill of the operating point.
        n_replicas: Replicas of the skip model that the cost case plans, which share the peak.

    Raises:
        PocError: The load test that the plan names is missing or unusable.
    """
    limits, test = bench.settings.gates, read_load_test(bench)
    if test is not None:
        asked = asked_per_s(bench.settings.cost.peak_requests_per_s, n_replicas, test.n_replicas)
        return load_responses(test, limits, asked, timing.device_name(bench))
    decode, prefill = pairs
    return speed.responses(
        ttft_dense_s=prefill.dense_s, ttft_skip_s=prefill.skip_s, tpot_dense_s=decode.dense_s,
        tpot_skip_s=decode.skip_s, slo_ttft_s=limits.slo_ttft_s, slo_tpot_s=limits.slo_tpot_s,
        load="batch 1, one request at a time", min_p99_samples=limits.min_p99_samples,
    )  # fmt: skip


def money_of(
    bench: Workbench, pairs: list[TimingPairs], confirmed: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `cost` object, and the `economics` object that a controller asks for beside it."""
    costs = cost_inputs(bench, pairs, confirmed)
    book, options = load_prices(price_path(bench.settings, bench.settings_path)), pricing(bench)
    business = economics(costs, book, **options)
    business["energy"] = energy(None, costs.volume.requests_per_month * costs.volume.output_tokens)
    return kpi_cost.cost(costs, book, **options), business


def judge(bench: Workbench, choice: dict[str, Any], *, functional_check: bool) -> Judged:
    """Return gates, cost and verdict of a run whose stages are finished, with what they rest on."""
    settings = bench.settings
    is_chosen = choice["threshold"] is not None
    confirmed, pairs = confirmation(bench) if is_chosen else (None, None)
    speeds, headline_pairs = speed_rows(bench)
    headline = next(row for row in speeds if row["is_headline"])
    money, business = money_of(bench, headline_pairs, confirmed)
    waited = responses(bench, headline_pairs, money["replicas"]["skip"])
    bounds = None if pairs is None else quality.bounds(*pairs, settings.gates, seed=settings.model.seed)
    openings = count_openings(bench.store.root, bench.key("confirm")) if is_chosen else 0
    evidence = Evidence(bounds=bounds, functional_check=functional_check, hardware_matches_target=not functional_check,
                        test_openings=openings, responses_at_target_load=is_at_target(waited),
                        responses_on_other_device=is_elsewhere(waited))  # fmt: skip
    gates = decide.gates(confirmed, headline, waited, money, evidence, settings.gates)
    context = VerdictContext(
        functional_check=functional_check, threshold_chosen=is_chosen, test_openings=openings,
        max_test_openings=settings.gates.max_test_openings, price_age_days=money["price"]["age_days"],
        price_limit_days=settings.gates.price_warning_days,
    )  # fmt: skip
    beside = rival_rows(bench, headline, is_chosen=is_chosen)
    beyond = None if pairs is None else detail(bench.folder("confirm"), *pairs, settings.gates, settings.model.seed)
    parts = {
        "controls": controls(bench) if is_chosen else [], "confirmation": confirmed, "detail": beyond,
        "rivals": beside, "speed": speeds, "responses": waited, "cost": money, "economics": business,
        "gates": gates, "verdict": decide.verdict(gates, context, beside),
    }  # fmt: skip
    return Judged(parts, openings)


def functional_check_reasons(device: str, profile: str) -> list[str]:
    """Return why a run proves nothing about the target, as codes; empty when it may prove something."""
    rules = (("cpu_device", device == "cpu"), ("quick_profile", profile == "quick"))
    return [code for code, holds in rules if holds]
