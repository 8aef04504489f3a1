"""Hand-made results that follow the contract of result.json, one builder per situation a manager can meet."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

Result = dict[str, Any]


def _load_parts() -> ModuleType:
    path = Path(__file__).with_name("fixture_parts.py")
    spec = importlib.util.spec_from_file_location("report_fixture_parts", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"expected the parts of a result at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = _load_parts()


CLASSES = {"Keep": "directive", "Alive": "directive", "Timeout": "glossary", "5": "number", "秒": "unit"}


def token_map(with_text: bool, n_points: int = 7) -> Result:
    """The two passages at every sweep point: the further the point, the more layers each free token skips."""
    layers = [layer for layer in range(PARTS.N_LAYERS) if layer not in PARTS.ALWAYS_RUN]
    classes = [CLASSES.get(word, "other") for word in PARTS.WORDS]
    n_skipped = [
        [0 if kind != "other" else (position * 5 + 2) % 5 * point % 20 for position, kind in enumerate(classes)]
        for point in range(n_points)
    ]
    return {
        "points": list(range(n_points)),
        "unit_layers": layers,
        "passages": [
            {
                "id": f"P{number}",
                "language": "ja",
                "n_tokens": len(PARTS.WORDS),
                "tokens": list(PARTS.WORDS) if with_text else None,
                "classes": list(classes),
                "critical": [kind != "other" for kind in classes],
                "n_skipped": [list(counts) for counts in n_skipped],
                "masks": [" ".join(f"{(1 << n) - 1 << number:x}" for n in counts) for counts in n_skipped],
            }
            for number in (1, 2)
        ],
    }


def go() -> Result:
    """Everything passes on the target GPU with the full profile."""
    result: Result = PARTS.go() | {"token_map": token_map(with_text=True)}
    return result


def _on_cpu(result: Result) -> Result:
    result["run"] |= {
        "profile": "quick",
        "functional_check": True,
        "functional_check_reasons": ["cpu_device", "quick_profile"],
    }
    result["environment"] |= {
        "device": "cpu",
        "device_name": "Intel Xeon 2.20 GHz",
        "n_cores": 2,
        "n_threads": 2,
        "memory_gib": 7.7,
        "dtype": "float32",
        "target_device_name": None,
    }
    result["data"] |= {"train_tokens_used": 61440}
    result["model"]["dense_tune"] |= {"n_steps": 30, "n_tokens": 30720}
    result["model"]["skip_tune"] |= {"n_steps": 60, "n_tokens": 61440}
    result["verdict"]["banner"] = "functional_check"
    result["cost"]["basis"] = "measured_this_machine"
    result["responses"] = PARTS.sequential()
    result["detail"] |= {"graded": [], "graded_reason": "answers_not_generated"}
    result["detail"] |= {"answers": None, "answers_reason": "answers_not_generated"}
    result["answer_samples"] = None
    result["passages"] = PARTS.passages(with_text=False)
    result["token_map"] = token_map(with_text=False)
    return result


def _set_gates(result: Result, *gates: Result) -> None:
    by_id = {row["id"]: row for row in gates}
    result["gates"] = [by_id.get(row["id"], row) for row in result["gates"]]


def functional_check_conditional() -> Result:
    """A CPU run whose quality gates hold: at most a conditional Go, with the banner."""
    result = _on_cpu(go())
    _set_gates(
        result,
        PARTS.gate("C3", "info", "functional_check", value=0.912, n=10000),
        PARTS.gate("C4", "info", "functional_check", value=4.42, n=10000),
        PARTS.gate("D1", "fail", "functional_check", value=0.62),
        PARTS.gate("S3", "inconclusive", "too_few_samples_for_p99", value=0.71, n=200, required_n=1000),
    )
    result["verdict"] |= {
        "code": "conditional_go",
        "main_reason": "functional_check",
        "reasons": ["functional_check", "too_few_samples_for_p99"],
        "evidence": "insufficient",
        "next_actions": [
            {"code": "run_on_target_hardware", "params": {"target_device_name": ""}},
            {"code": "measure_responses", "params": {"n": 200, "required_n": 1000}},
        ],
    }
    return result


def functional_check_no_go() -> Result:
    """A CPU run in which skipping makes generation slower; yet the toy figures are shown."""
    result = _on_cpu(go())
    result["speed"] = PARTS.speed(-0.22)
    for row in result["speed"]:
        row["routing"] = "trained" if row["is_headline"] else "random"
    result["cost"] = PARTS.cost(9, 9) | {"basis": "measured_this_machine"}
    result["economics"]["spot"] |= {"id": None, "reason": "no_spot_price", "planned_share": 0.0, "rows": []}
    result["economics"]["tuning"]["planned_every_months"] = None
    result["rivals"][0] |= {"state": "better", "low": -0.021, "high": -0.004, "ppl_rise": -0.012}
    result["rivals"][0]["reason"] = "no_worse_and_simpler"
    result["plan"]["registered"]["model.skip.force_critical"] = True
    result["controls"][-1] |= {"ppl_rise": 0.003, "ppl": 21.966}  # other numerics: near the dense point, not on it
    result["confirmation"]["n_items"] = 96
    result["confirmation"] |= {"n_over_skipped": 0, "skip_share_critical": 0.0, "critical_recall": 1.0}
    result["confirmation"] |= {
        "n_both_right": 58,
        "n_harmful": 3,
        "n_helpful": 2,
        "n_both_wrong": 33,
        "n_same_answer": 90,
    }
    _set_gates(
        result,
        PARTS.gate(
            "Q1", "inconclusive", "quality_not_shown", value=-0.0104, low=-0.0541, high=0.0298, n=96, required_n=812
        ),
        PARTS.gate("Q4", "pass", value=0.0, low=0.0, high=0.0012, n=2480),
        PARTS.gate("S1", "fail", "speed_refuted", value=0.944, low=0.916, high=0.972, n=8),
        PARTS.gate("S2", "info", "info_only", value=-0.41, n=8),
        PARTS.gate("C3", "info", "functional_check", value=0.021, n=10000),
        PARTS.gate("C4", "info", "functional_check", n=10000),
        PARTS.gate("D1", "fail", "functional_check", value=0.12),
    )
    result["verdict"] |= {
        "code": "no_go",
        "main_reason": "speed_refuted",
        "reasons": ["speed_refuted", "quality_not_shown"],
        "evidence": "insufficient",
        "next_actions": [
            {"code": "keep_dense_model", "params": {}},
            {"code": "speed_up_engine", "params": {"measured_speedup": 0.944, "limit": 1.1}},
            {"code": "run_on_target_hardware", "params": {"target_device_name": "NVIDIA L40S"}},
            {"code": "collect_items", "params": {"n": 96, "required_n": 812}},
        ],
    }
    return result


def no_go() -> Result:
    """The target GPU refutes quality: a real No-Go, with a deviation from the plan."""
    result = go()
    _set_gates(
        result,
        PARTS.gate("Q1", "fail", "quality_refuted", value=-0.041, low=-0.0522, high=-0.0301, n=1200),
        PARTS.gate("Q4", "fail", "over_skip_refuted", value=0.0234, low=0.0181, high=0.0297, n=2480),
    )
    result["verdict"] |= {
        "code": "no_go",
        "main_reason": "quality_refuted",
        "reasons": ["quality_refuted", "over_skip_refuted"],
        "next_actions": [
            {"code": "keep_dense_model", "params": {}},
            {"code": "use_lower_threshold", "params": {}},
        ],
    }
    result["rivals"][1] |= {"reason": "rival_saves_less", "timing": PARTS.int8_timing()}
    result["responses"]["load_test"] |= {"is_at_target": False, "offered_per_s": 0.5}
    result["responses"]["tpot_s"]["skip"]["p99"] = None
    result["data"]["test_openings"] = 2
    result["plan"]["deviations"] = ["limits.max_over_skip was 0.005 when the plan was registered"]
    result["answer_samples"] = None
    result["passages"] = PARTS.passages(with_text=False)
    result["token_map"] = token_map(with_text=False)
    return result


def insufficient_evidence() -> Result:
    """Too few questions, and timed on another GPU than the priced one: neither safe nor refuted."""
    result = go()
    result["environment"]["device_name"] = "NVIDIA H100 80GB HBM3"
    result["cost"]["basis"] = "measured_this_machine"
    _set_gates(
        result,
        PARTS.gate(
            "Q1", "inconclusive", "quality_not_shown", value=-0.0104, low=-0.0541, high=0.0298, n=96, required_n=812
        ),
        PARTS.gate("D1", "inconclusive", "too_few_items", value=0.12, n=96, required_n=812),
    )
    result["verdict"] |= {
        "code": "no_go_insufficient_evidence",
        "main_reason": "quality_not_shown",
        "reasons": ["quality_not_shown", "too_few_items"],
        "evidence": "insufficient",
        "next_actions": [{"code": "collect_items", "params": {"n": 96, "required_n": 812}}],
    }
    return result


def no_threshold() -> Result:
    """The fixed sequence finds nothing: no confirmation, but the sweep, controls and speed are shown."""
    result = _on_cpu(go())
    result["sweep"] = PARTS.sweep(None)
    result["choice"] |= {"sweep_index": None, "threshold": None, "reason": "first_setting_fails"}
    result |= {"confirmation": None, "detail": None}
    for rival in result["rivals"]:
        rival |= {"state": "not_measured", "ppl_rise": None, "low": None, "high": None, "n": 0, "skip_rate": None}
        rival["reason"] = "no_threshold_chosen"
    quality = [PARTS.gate(f"Q{number}", "not_measured", "no_threshold_chosen", limit=None) for number in range(1, 8)]
    _set_gates(result, *quality, PARTS.gate("D1", "fail", "functional_check", value=0.0))
    result["data"]["test_openings"] = 0
    result["verdict"] |= {
        "code": "no_go",
        "main_reason": "no_threshold_passes",
        "reasons": ["no_threshold_passes"],
        "evidence": "insufficient",
        "next_actions": [
            {"code": "keep_dense_model", "params": {}},
            {"code": "retrain_skip_model", "params": {}},
        ],
    }
    return result


def everything_missing() -> Result:
    """Nothing but the set-up: no sweep, no test, no speed, no cost, no passages."""
    result = _on_cpu(go())
    result["poc"]["decision_date"] = None
    result["run"]["git_commit"] = None
    result["run"]["mlflow"]["run_id"] = None
    result["environment"]["load_average_1min"] = None
    result |= {"sweep": [], "controls": [], "confirmation": None, "speed": [], "responses": None, "cost": None}
    result |= {"passages": [], "token_map": None, "stages": [], "detail": None, "rivals": [], "economics": None}
    result["choice"] |= {"sweep_index": None, "threshold": None, "reason": "no_setting_skips"}
    reasons = {"Q": "no_threshold_chosen", "S": "speed_not_measured", "C": "cost_not_computed", "D": "functional_check"}
    result["gates"] = [PARTS.gate(name, "not_measured", reasons[name[0]], limit=None) for name in PARTS.GATE_FORMS]
    for tune in ("dense_tune", "skip_tune"):
        result["model"][tune] |= {"loss_first": None, "loss_last": None}
    result["hashes"] = dict.fromkeys(result["hashes"])
    result["plan"] = {"registered": {}, "deviations": []}
    result["verdict"] |= {
        "code": "no_go",
        "main_reason": "no_threshold_passes",
        "reasons": ["no_threshold_passes"],
        "evidence": "insufficient",
        "next_actions": [],
    }
    return result


BUILDERS = {
    "go": go,
    "functional_check_conditional": functional_check_conditional,
    "functional_check_no_go": functional_check_no_go,
    "no_go": no_go,
    "insufficient_evidence": insufficient_evidence,
    "no_threshold": no_threshold,
    "everything_missing": everything_missing,
}

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "<svg onload=alert(4)>",
    "\u202eevil\u202c \u200b\ufeff",
    "nul\x00here",
    "long" * 2500,
    "{{ 7 * 7 }} {% raw %} $\\alpha$ {0} {title}",
)


def hostile(offset: int) -> Result:
    """A result with a hostile string in every place that outside text can reach; the offset shifts which one where."""
    strings = itertools.cycle(HOSTILE[offset:] + HOSTILE[:offset])

    def fill(part: Result, *keys: str) -> None:
        part |= {key: next(strings) for key in keys}

    result = go()
    fill(result["poc"], "title", "owner", "organisation")
    fill(result["environment"], "device_name", "platform", "target_device_name", "python")
    fill(result["model"], "name", "source")
    fill(result["cost"]["price"], "name", "provider", "source")
    fill(result["cost"]["monthly_jpy"], "api_name")
    fill(result["responses"], "load")
    fill(result["responses"]["load_test"], "device_name")
    fill(result["detail"]["slices"][0], "name")
    fill(result["economics"]["energy"], "factor_source")
    fill(result["confirmation"]["slices"][0], "name")
    fill(result["hashes"], "corpus")
    fill(result["run"]["mlflow"], "tracking_uri", "experiment")
    result["plan"] = {"registered": {f"a.{next(strings)}": next(strings)}, "deviations": list(HOSTILE)}
    for sample in result["answer_samples"]:
        fill(sample, "id", "question", "reference", "dense", "skip")
    for passage in (*result["passages"], *result["token_map"]["passages"]):
        fill(passage, "id", "language")
        passage["tokens"] = [next(strings) for _ in range(passage["n_tokens"])]
    result["verdict"]["next_actions"] = [
        {"code": "run_on_target_hardware", "params": {"target_device_name": text}} for text in HOSTILE
    ]
    return result
