"""The parts of a hand-made result, and one complete result in which every gate passes."""

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]
SETUP = Path(__file__).with_name("fixture_setup.json")
"""Run, data, model and plan of the hand-made result: what no situation computes."""
DETAIL = Path(__file__).with_name("fixture_detail.json")
"""What stands beside gates and bill: detail of the confirmation, rivals, business figures, load test."""
WORDS = (
    *("Keep", "Alive", "Timeout", " は", "次の", "要求を", "待つ", "秒数", "を", "指定", "します", "。"),
    *("既定値", " は", "5", "秒", "です", "。"),
)
N_LAYERS = 30
ALWAYS_RUN = [0, 1, 11, 28, 29]
GATE_FORMS = {
    "Q1": ("lower_gt", "points", True, -0.02),
    "Q2": ("upper_le", "fraction", True, 0.10),
    "Q3": ("lower_ge", "fraction", False, 0.90),
    "Q4": ("upper_le", "fraction", True, 0.01),
    "Q5": ("info", "ratio", False, 0.5),
    "Q6": ("le", "count", True, 0),
    "Q7": ("lower_gt", "points", False, -0.05),
    "S1": ("lower_ge", "ratio", True, 1.10),
    "S2": ("info", "fraction", False, None),
    "S3": ("le", "ratio", True, 1.0),
    "S4": ("ge", "per_s", False, 0.6),
    "S5": ("info", "ratio", False, None),
    "C1": ("info", "jpy_per_mtok", False, None),
    "C2": ("info", "jpy", False, None),
    "C3": ("ge", "fraction", True, 0.80),
    "C4": ("le", "months", True, 12.0),
    "C5": ("info", "jpy", False, None),
    "D1": ("ge", "ratio", True, 1.0),
}


def int8_timing() -> Result:
    """int8 weights timed against dense."""
    return {
        "routing": "dense", "phase": "decode", "batch": 1, "prompt_tokens": 256, "output_tokens": 128,
        "dtype": "bfloat16", "speedup": 1.31, "low": 1.287, "high": 1.334, "n_pairs": 12, "dense_s": 0.0182,
        "other_s": 0.0139,
    }  # fmt: skip


def gate(gate_id: str, state: str, reason: str | None = None, **numbers: Any) -> Result:
    """One gate row; numbers that are not given are missing."""
    comparator, unit, is_must, limit = GATE_FORMS[gate_id]
    row = {"id": gate_id, "value": None, "low": None, "high": None, "n": None, "limit": limit}
    row |= {"comparator": comparator, "unit": unit, "state": state, "is_must": is_must, "reason": reason}
    return row | {"required_n": None} | numbers


def _sweep_row(index: int, threshold: float, skip_rate: float, rise: float, passes: bool, chosen: bool) -> Result:
    shape = [0.0 if layer in ALWAYS_RUN else 0.4 + (layer * 7 % 11) / 10 for layer in range(N_LAYERS)]
    scale = skip_rate * N_LAYERS / sum(shape)
    return {
        "index": index,
        "threshold": threshold,
        "target_skip_rate": round(skip_rate * 1.05, 3),
        "skip_rate": skip_rate,
        "skip_rate_per_layer": [round(min(1.0, part * scale), 4) for part in shape],
        "n_tokens": 20480,
        "ppl": round(21.4 * (1 + rise), 4),
        "ppl_dense": 21.4,
        "ppl_rise": rise,
        "ppl_rise_low": round(rise - 0.006 - skip_rate * 0.02, 4),
        "ppl_rise_high": round(rise + 0.006 + skip_rate * 0.02, 4),
        "bits_per_byte": round(0.982 + rise * 0.3, 4),
        "bits_per_byte_dense": 0.982,
        "agreement": round(1 - skip_rate * 0.45, 4),
        "agreement_low": round(1 - skip_rate * 0.5, 4),
        "agreement_high": round(1 - skip_rate * 0.4, 4),
        "critical_recall": round(1 - skip_rate * 0.3, 4),
        "over_skip": round(skip_rate * 0.03, 5),
        "over_skip_high": round(skip_rate * 0.03 + 0.003, 5),
        "n_critical": 2310,
        "selectivity": None if skip_rate == 0 else 0.41,
        "item_accuracy": round(0.642 - skip_rate * 0.05, 4),
        "item_accuracy_dense": 0.642,
        "item_delta_low": round(-0.01 - skip_rate * 0.1, 4),
        "n_items": 240,
        "estimated_ceiling": round(1 / (1 - skip_rate * 0.85), 4),
        "passes": passes,
        "fail_reasons": [] if passes else ["quality_refuted"],
        "chosen": chosen,
    }


def sweep(chosen: int | None) -> list[Result]:
    """Seven thresholds from dense to bold; those above the chosen one fail."""
    points = [(0.0, 0.0, 0.0), (0.18, 0.084, 0.004), (0.31, 0.152, 0.012), (0.42, 0.251, 0.027)]
    points += [(0.55, 0.312, 0.061), (0.66, 0.378, 0.118), (0.78, 0.451, 0.243)]
    limit = -1 if chosen is None else chosen
    return [
        _sweep_row(index, threshold, rate, rise, index == 0 or index <= limit, index == chosen)
        for index, (threshold, rate, rise) in enumerate(points)
    ]


def _control(name: str, skip_rate: float, rise: float) -> Result:
    return {
        "name": name,
        "split": "test",
        "skip_rate": skip_rate,
        "ppl": round(21.9 * (1 + rise), 3),
        "ppl_rise": rise,
        "ppl_rise_low": round(rise - abs(rise) * 0.12 - 0.004, 4),
        "ppl_rise_high": round(rise + abs(rise) * 0.12 + 0.004, 4),
        "bits_per_byte": round(0.99 + rise * 0.2, 4),
        "item_accuracy": round(0.64 - max(0.0, rise) * 0.2, 4),
        "note": None,
    }


def _controls() -> list[Result]:
    return [
        _control("base_untuned", 0.0, 0.093),
        _control("dense_tuned", 0.0, 0.0),
        _control("skiplayer", 0.249, 0.029),
        _control("guards_off", 0.268, 0.034) | {"note": "guards_off"},
        _control("random_mask", 0.249, 0.873),
        _control("static_drop", 0.233, 0.112) | {"note": "not_healed"},
        _control("int8", 0.0, 0.002) | {"note": "quality_only"},
        _control("dense_tuned", 0.0, 0.0) | {"name": "all_executed", "note": "same_weights_as_dense"},
    ]


def _confirmation() -> Result:
    classes = [("glossary", 0.052, 4210), ("number", 0.061, 2170), ("directive", 0.043, 3010), ("other", 0.158, 91200)]
    return {
        "split": "test",
        "n_items": 1200,
        "n_both_right": 748,
        "n_harmful": 14,
        "n_helpful": 11,
        "n_both_wrong": 427,
        "accuracy_dense": 0.635,
        "accuracy_skip": 0.6325,
        "n_same_answer": 1142,
        "n_critical": 2480,
        "n_over_skipped": 9,
        "critical_recall": 0.953,
        "skip_share_critical": 0.047,
        "skip_share_other": 0.158,
        "noise_floor_flips": 3,
        "n_must_pass": 12,
        "n_must_pass_failed": 0,
        "skip_rate": 0.249,
        "ppl_dense": 21.9,
        "ppl_skip": 22.54,
        "ppl_rise": 0.0292,
        "ppl_rise_low": 0.0201,
        "ppl_rise_high": 0.0388,
        "n_tokens": 40960,
        "skip_rate_by_class": [{"class": name, "skip_rate": rate, "n": n} for name, rate, n in classes],
        "slices": [
            {"name": "ja", "n": 640, "accuracy_dense": 0.611, "accuracy_skip": 0.609, "delta_low": -0.012},
            {"name": "en", "n": 560, "accuracy_dense": 0.662, "accuracy_skip": 0.659, "delta_low": -0.014},
        ],
    }


def _speed_row(phase: str, skip_rate: float, measured: float, headline: bool, dense_s: float) -> Result:
    ceiling = 1 / (1 - skip_rate * 0.85)
    return {
        "phase": phase,
        "batch": 1,
        "prompt_tokens": 128,
        "output_tokens": 64 if phase == "decode" else None,
        "dtype": "float32",
        "backend": "branch" if phase == "decode" else "gathered",
        "routing": "trained",
        "skip_rate": skip_rate,
        "estimated_ceiling": round(ceiling, 4),
        "measured_speedup": measured,
        "low": round(measured * 0.97, 4),
        "high": round(measured * 1.03, 4),
        "n_pairs": 8,
        "conversion": None if skip_rate == 0 else round((measured - 1) / (ceiling - 1), 4),
        "dense_s": dense_s,
        "skip_s": round(dense_s / measured, 6),
        "is_headline": headline,
    }


def speed(gain: float) -> list[Result]:
    """Decode rows whose measured gain is `gain` times their skip rate, and one prefill row."""
    rates = (0.0, 0.084, 0.152, 0.249, 0.378)
    rows = [_speed_row("decode", rate, round(1 + rate * gain, 4), rate == 0.249, 0.0621) for rate in rates]
    return [*rows, _speed_row("prefill", 0.249, round(1 + 0.249 * gain * 0.6, 4), False, 1.42)]


def detail() -> Result:
    """What stands beside gates and bill, each under its name."""
    parts: Result = json.loads(DETAIL.read_text(encoding="utf-8"))
    return parts


def under_load() -> Result:
    """Responses of the skip model under the planned load; the dense model was not tested."""
    nothing = {"p50": None, "p90": None, "n": 0}
    return {
        "ttft_s": {"dense": nothing, "skip": {"p50": 0.71, "p90": 1.12, "p99": 1.68, "n": 2000}},
        "tpot_s": {"dense": nothing, "skip": {"p50": 0.061, "p90": 0.0722, "p99": 0.0813, "n": 2000}},
        "slo": {"ttft_s": 2.0, "tpot_s": 0.1},
        "load": "0.74/s, 1 × NVIDIA L40S",
        "basis": "load_test",
        "load_test": detail()["load_test"],
    }


def sequential() -> Result:
    """Responses of requests that were measured one after the other."""

    def side(p50: float, p90: float) -> Result:
        return {"p50": p50, "p90": p90, "n": 200}

    return {
        "ttft_s": {"dense": side(0.61, 0.82), "skip": side(0.55, 0.79)},
        "tpot_s": {"dense": side(0.0623, 0.0711), "skip": side(0.0554, 0.0643)},
        "slo": {"ttft_s": 2.0, "tpot_s": 0.1},
        "load": "batch 1, one request at a time",
        "basis": "sequential",
        "load_test": None,
    }


def cost(n_dense: int, n_skip: int) -> Result:
    """A cost object in which the number of machines decides the saving."""
    hourly = 404.85
    saving = (n_dense - n_skip) * hourly * 730 - 48000.0
    return {
        "price": {
            "name": "AWS g6e.xlarge (L40S) Tokyo",
            "provider": "AWS",
            "jpy_per_hour": hourly,
            "usd_per_hour": 2.699,
            "fx_jpy_per_usd": 150.0,
            "fx_date": "2026-11-20",
            "as_of": "2026-09-06",
            "source": "SkyPilot catalog v8",
            "age_days": 78,
            "tax_rate": 0.1,
            "tax_included": False,
            "stale": "ok",
        },
        "volume": {
            "requests_per_month": 1200000.0,
            "input_tokens": 600,
            "output_tokens": 250,
            "peak_requests_per_s": 5.0,
            "hours_per_month": 730.0,
        },
        "per_mtok_jpy": [
            {"utilisation": 0.1, "dense": 4498.3, "skip": 3748.6},
            {"utilisation": 0.3, "dense": 1499.4, "skip": 1249.5},
            {"utilisation": 0.6, "dense": 749.7, "skip": 624.8},
        ],
        "replicas": {
            "dense": n_dense,
            "skip": n_skip,
            "q_slo_dense_per_s": 0.8,
            "q_slo_skip_per_s": 1.04 if n_skip < n_dense else 0.76,
            "target_load": 0.7,
        },
        "monthly_jpy": {
            "dense": n_dense * hourly * 730,
            "skip": n_skip * hourly * 730,
            "api": 66000.0,
            "api_name": "llama-3.1-8b",
        },
        "saving_jpy": {
            "p10": saving - 210000.5,
            "p50": saving,
            "p90": saving + 180000.25,
            "prob_positive": 0.912 if saving > 0 else 0.021,
        },
        "upkeep_jpy_per_month": 48000.0,
        "investment_jpy": 2400000.0,
        "payback_months": {"p50": 2400000.0 / saving, "reason": None}
        if saving > 0
        else {"p50": None, "reason": "not_recovered"},
        "npv_jpy": {
            "p10": saving * 33 - 6200000.0,
            "p50": saving * 33 - 2400000.0,
            "p90": saving * 33 + 2900000.0,
            "prob_positive": 0.886 if saving > 0 else 0.042,
        },
        "tornado": [
            {"factor": "speed_ratio", "low_jpy": saving * 33 - 9000000.0, "high_jpy": saving * 33 + 5000000.0},
            {"factor": "volume", "low_jpy": saving * 33 - 6100000.0, "high_jpy": saving * 33 + 1800000.0},
            {"factor": "fx", "low_jpy": saving * 33 - 4300000.0, "high_jpy": saving * 33 - 400000.0},
            {"factor": "upkeep", "low_jpy": saving * 33 - 2000000.0, "high_jpy": saving * 33 - 3100000.0},
        ],
        "horizon_months": 36,
        "discount_rate": 0.05,
        "n_draws": 10000,
        "basis": "measured_target_device",
        "yen_per_correct_answer": {"dense": 3.49, "skip": 2.73},
    }


def passages(with_text: bool) -> list[Result]:
    """Two short passages, with or without their words."""
    words = list(WORDS)
    critical = [word in {"Keep", "Alive", "Timeout", "5", "秒"} for word in words]
    n_skipped = [0 if important else (position * 5) % 13 for position, important in enumerate(critical)]
    return [
        {
            "id": f"mod/core-{number}",
            "language": "ja",
            "tokens": list(words) if with_text else None,
            "n_tokens": len(words),
            "skipped_layers": n_skipped,
            "critical": critical,
        }
        for number in range(2)
    ]


def _stages() -> list[Result]:
    names = ("ingest", "dense-tune", "skip-tune", "sweep", "confirm", "measure", "cost", "decide", "report")
    seconds = (1.4, 141.2, 228.9, 96.4, 51.0, 62.7, 0.8, 0.1, 1.3)
    return [
        {"name": name, "seconds": duration, "reused": name == "ingest", "key": f"{index:02d}ab34cd56ef7890"}
        for index, (name, duration) in enumerate(zip(names, seconds, strict=True))
    ]


def go() -> Result:
    """Everything passes on the target GPU with the full profile."""
    gates = [
        gate("Q1", "pass", value=-0.0025, low=-0.0092, high=0.0041, n=1200),
        gate("Q2", "pass", value=0.0208, low=0.0146, high=0.0289, n=1200),
        gate("Q3", "pass", value=0.9517, low=0.94, high=0.9612, n=1200),
        gate("Q4", "pass", value=0.0036, low=0.0019, high=0.0064, n=2480),
        gate("Q5", "info", "info_only", value=0.297, n=2480),
        gate("Q6", "pass", value=0, high=2.65, n=12),
        gate("Q7", "pass", value=-0.004, low=-0.014, high=0.009, n=560),
        gate("S1", "pass", value=1.1868, low=1.1512, high=1.2224, n=8),
        gate("S2", "info", "info_only", value=0.6956, n=8),
        gate("S3", "pass", value=0.84, n=2000),
        gate("S4", "pass", value=1.04, limit=0.714),
        gate("S5", "not_measured", "energy_not_measured"),
        gate("C1", "info", "info_only", value=1249.5),
        gate("C2", "info", "info_only", value=2068783.5),
        gate("C3", "pass", value=0.912, n=10000),
        gate("C4", "pass", value=4.42, n=10000),
        gate("C5", "info", "info_only", value=2.73),
        gate("D1", "pass", value=1.12),
    ]
    beside = {name: part for name, part in detail().items() if name != "load_test"}
    return (
        json.loads(SETUP.read_text(encoding="utf-8"))
        | beside
        | {
            "schema_version": 1,
            "sweep": sweep(3),
            "controls": _controls(),
            "choice": {
                "sweep_index": 3,
                "threshold": 0.42,
                "rule": "fixed_sequence",
                "reason": "last_pass_before_first_fail",
            },
            "confirmation": _confirmation(),
            "speed": speed(0.75),
            "responses": under_load(),
            "cost": cost(9, 7),
            "gates": gates,
            "verdict": {
                "code": "go",
                "main_reason": "all_gates_pass",
                "reasons": ["all_gates_pass"],
                "evidence": "sufficient",
                "next_actions": [{"code": "start_pilot", "params": {}}],
                "banner": None,
            },
            "passages": passages(with_text=True),
            "stages": _stages(),
        }
    )
