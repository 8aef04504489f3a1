import copy
import json

import pytest
from jsonschema import Draft202012Validator

from reports.errors import ResultError
from reports.result import load, lookup, pointer, schema, validate


def test_every_hand_made_result_follows_the_contract(fx, situation):
    """All situations that the report is tested with are valid results."""
    validate(fx.BUILDERS[situation]())


def test_the_schema_is_a_closed_draft_2020_12_schema():
    """The committed schema is itself valid, and no object in it takes unknown keys."""
    Draft202012Validator.check_schema(schema())
    objects = [schema(), *schema()["$defs"].values()]
    assert all(part.get("additionalProperties") is False for part in objects if part.get("type") == "object")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("gates", 0, "value"), "good"),
        (("sweep", 2, "skip_rate"), 1.2),
        (("run", "created_at"), "yesterday"),
        (("poc", "decision_date"), "2026/11/30"),
        (("verdict", "code"), "maybe"),
        (("confirmation", "n_items"), -1),
        (("confirmation", "n_items"), None),
        (("speed", 0, "phase"), "encode"),
        (("cost", "price", "tax_rate"), float("nan")),
        (("sweep", 0, "ppl"), float("inf")),
    ],
)
def test_a_wrong_value_is_refused_with_its_pointer(fx, where, value):
    """The message names the JSON pointer of the offending value."""
    result = fx.go()
    node = result
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    with pytest.raises(ResultError) as caught:
        validate(result)
    assert pointer(*where) in str(caught.value)


def test_missing_and_unknown_keys_are_refused(fx):
    """A key that is missing or misspelt is named."""
    result = fx.go()
    del result["model"]["n_layers"]
    with pytest.raises(ResultError, match=r"n_layers.*/model"):
        validate(result)
    result = fx.go()
    result["sweep"][1]["bogus"] = 0.5
    with pytest.raises(ResultError, match=r"bogus.*/sweep/1"):
        validate(result)


def test_a_reason_beside_a_missing_figure_is_allowed(fx):
    """Any object may carry `<name>_reason` codes beside its nulls."""
    result = fx.go()
    result["sweep"][1]["item_accuracy"] = None
    result["sweep"][1]["item_reason"] = "no_items"
    validate(result)


def _break_chosen(result):
    result["sweep"][1]["chosen"] = True


def _break_layers(result):
    result["sweep"][2]["skip_rate_per_layer"].pop()


def _break_gates(result):
    result["gates"].reverse()


def _break_reason(result):
    result["gates"][11]["reason"] = None


def _break_passage(result):
    result["passages"][0]["critical"].pop()


def _break_confirmation(result):
    result["choice"]["sweep_index"] = None
    for row in result["sweep"]:
        row["chosen"] = False


@pytest.mark.parametrize(
    ("break_it", "where"),
    [
        (_break_chosen, "/sweep"),
        (_break_layers, "/sweep/2/skip_rate_per_layer"),
        (_break_gates, "/gates"),
        (_break_reason, "/gates/11/reason"),
        (_break_passage, "/passages/0/critical"),
        (_break_confirmation, "/confirmation"),
    ],
)
def test_contradictions_are_refused(fx, break_it, where):
    """Two parts that contradict each other are refused although each follows the schema."""
    result = fx.go()
    break_it(result)
    with pytest.raises(ResultError, match=where):
        validate(result)


def test_validation_changes_nothing(fx):
    """The result is read, never edited."""
    result = fx.go()
    before = copy.deepcopy(result)
    validate(result)
    assert result == before


def test_pointers_lead_to_keys_with_dots_slashes_and_tildes():
    """RFC 6901 escapes make every settings key addressable."""
    value = {"a.b": {"c/d~e": [10, 20]}}
    path = pointer("a.b", "c/d~e", 1)
    assert path == "/a.b/c~1d~0e/1"
    assert lookup(value, path) == 20
    with pytest.raises(ResultError, match=r"/a\.b/x"):
        lookup(value, "/a.b/x")


def test_load_reads_validates_and_explains(fx, tmp_path):
    """A file that is absent, no JSON or no object is one clear error; a good one is returned."""
    path = tmp_path / "result.json"
    with pytest.raises(ResultError, match=r"result\.json"):
        load(path)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ResultError, match="JSON object, got list"):
        load(path)
    path.write_text(json.dumps(fx.no_go()), encoding="utf-8")
    assert load(path) == fx.no_go()
