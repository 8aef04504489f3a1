"""The benchmark document: the committed schema, and our own check of it against the reference validator."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipmodel.bench.cells import Row
from skipmodel.bench.document import SCHEMA_VERSION, check, new_document, schema
from skipmodel.engine.engagement import Engagement, PhaseCost
from skipmodel.errors import MeasurementError

ISSUE_COLUMNS = {"phase", "batch", "prompt", "dtype", "backend", "skip_rate", "ceiling", "speedup", "low", "high",
                 "conversion"}  # fmt: skip
PERCENTILES = {"p50": 0.1, "p90": 0.2, "p99": None, "n": 2, "n_samples": 2}
BOTH = {"dense": PERCENTILES, "skip": PERCENTILES}


def document() -> dict[str, Any]:
    """One of everything."""
    row = Row(
        phase="decode", routing="trained", backend="branch", requested_batch=2, batch=1, prompt=8, output_tokens=4,
        dtype="float32", skip_rate=0.2, ceiling=1.2, speedup=1.1, low=1.0, high=1.2, conversion=0.5, engaged=False,
        speedup_with_rule=1.0, low_with_rule=0.9, high_with_rule=1.1, n_pairs=2, dense_s=(0.1, 0.2), skip_s=(0.1, 0.1),
        rule_s=(0.1, 0.2), tpot=BOTH, itl=BOTH, tokens_per_s={"dense": 10.0, "skip": 11.0},
        peak_memory={"bytes": 1000, "of": "process"}, note="batch_halved",
    )  # fmt: skip
    left_out = Row(phase="prefill", routing="random", backend="gathered", requested_batch=1, batch=1, prompt=8,
                   output_tokens=None, dtype="float32", reason="over_budget",
                   reason_params={"predicted_s": 9.0})  # fmt: skip
    environment = {
        "device": "cpu", "device_name": "x", "n_cores": 2, "n_threads": 2, "torch": "2", "platform": "Linux", "python":
        "3.12", "transformers": "5", "instructions": ["avx2"], "dtypes": ["float32"], "memory_bytes": 10,
        "load_before": 0.5, "load_after": None, "energy_reason": "no CUDA device",
    }  # fmt: skip
    model = {"name": "m", "family": "llama", "n_layers": 6, "n_routed": 4, "threshold": 0.5, "level": None,
             "real_text": True}  # fmt: skip
    made = new_document(model, {"batches": (1,)}, environment)
    made["rows"] = [row.to_json(), left_out.to_json()]
    made["calibrations"] = [
        Engagement({"device": "cpu"}, "float32", "k", (PhaseCost("decode", 1, 8, 1.0, 1.1, 0.5, 0.3),)).to_json()
        | {"weights": "float", "group_rows": 0, "seconds": 1.0, "taken_from_file": False, "reason": None}
    ]
    made["rivals"] = [{"name": "generate", "phase": "decode", "batch": 1, "prompt": 8, "output_tokens": 4, "dtype":
                       "float32", "rival_s": [0.2], "own_s": [0.1], "n_pairs": 1, "ratio": 2.0, "low": None,
                       "high": None, "reason": None}]  # fmt: skip
    arm = {"n_tokens": [4], "n_ended": 1, "request_s": [0.2], "ttft": PERCENTILES, "tpot": PERCENTILES,
           "e2e": PERCENTILES}  # fmt: skip
    made["natural"] = [{"dtype": "float32", "weights": "float", "prompt": 8, "max_tokens": 4, "n_requests": 1,
                        "n_same_text": 1, "speedup": 1.0, "low": None, "high": None,
                        "arms": {"dense": arm, "skip": arm}}]  # fmt: skip
    plain: dict[str, Any] = _plain(made)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_is_one_and_holds_the_columns_of_the_harness() -> None:
    """A valid draft 2020-12 schema; every field of a row is in it and required."""
    jsonschema.Draft202012Validator.check_schema(schema())
    row = schema()["$defs"]["row"]
    fields = set(Row.__dataclass_fields__)

    assert set(row["properties"]) == set(row["required"]) == fields
    assert fields >= ISSUE_COLUMNS
    assert schema()["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


def test_a_whole_document_passes_both_checks() -> None:
    """Ours, which needs no package, and the reference."""
    VALIDATOR.validate(document())
    check(document())


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *(found for key, part in inner for found in _paths(part, (*path, key)))]


PATHS = [path for path in _paths(document()) if path]
CHANGES = st.sampled_from(["remove", "add", None, True, -1, 0, 2.5, "x", [], {}])


@given(st.sampled_from(PATHS), CHANGES)
def test_our_check_and_the_reference_agree_on_every_change(path: tuple[Any, ...], change: Any) -> None:
    """A field taken out, put in, or given another value: both refuse it or both take it."""
    changed = copy.deepcopy(document())
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    if change == "remove":
        del place[path[-1]]
    elif change == "add" and isinstance(place[path[-1]], dict):
        place[path[-1]]["brand_new"] = 1
    else:
        place[path[-1]] = change
    try:
        check(changed)
    except MeasurementError:
        is_taken = False
    else:
        is_taken = True

    assert is_taken == VALIDATOR.is_valid(changed)


@pytest.mark.parametrize(("field", "value", "told"), [
    ("rows", None, "/rows: expected array"),
    ("schema_version", 2, "/schema_version: expected one of"),
    ("brand_new", 1, "'brand_new' is unknown"),
])  # fmt: skip
def test_a_refusal_names_the_place(field: str, value: Any, told: str) -> None:
    """The first problem with its path."""
    with pytest.raises(MeasurementError, match=told):
        check(document() | {field: value})
