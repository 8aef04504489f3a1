import ast
from pathlib import Path

import kpis
from kpis import codes
from kpis.actions import ACTIONS_OF_REASON
from kpis.catalog import CATALOG
from kpis.gate import KINDS

PACKAGE = Path(kpis.__file__).parent


def strings_in(*names: str) -> set[str]:
    """All string constants written in some files of the package."""
    found = set()
    for name in names:
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str}
    return found


def test_every_listed_gate_reason_is_emitted() -> None:
    """No sentence has to be written for a code that no code path emits."""
    written = strings_in("gates_quality.py", "gates_business.py")
    built = {f"{part}_{end}" for part in ("flips", "harmful_flips") for end in ("refuted", "not_shown")}

    assert set(codes.GATE_REASONS) - written - built == set()


def test_every_sweep_and_choice_reason_is_emitted() -> None:
    """The same for the sweep and the choice."""
    written = strings_in("quality.py", "decide.py")

    assert set(codes.SWEEP_FAIL_REASONS) | set(codes.CHOICE_REASONS) <= written


def test_every_listed_rival_and_business_reason_is_emitted() -> None:
    """The same for rivals, and for figures that are missing or out of reach."""
    rivals = strings_in("rivals.py") | {"static_drop_not_measured", "int8_not_measured"}

    assert set(codes.RIVAL_REASONS) | set(codes.RIVAL_STATES) <= rivals
    assert set(codes.ECONOMICS_REASONS) <= strings_in("economics.py", "energy.py")


def test_actions_and_reasons_are_listed() -> None:
    """Every action follows from a listed reason or is given outright, and has its params listed."""
    assert set(ACTIONS_OF_REASON) <= set(codes.VERDICT_REASONS)
    reachable = {action for actions in ACTIONS_OF_REASON.values() for action in actions}
    assert reachable | {"start_pilot", "keep_dense_model"} == set(codes.NEXT_ACTIONS)


def test_units_and_comparators_are_listed() -> None:
    """Gates and catalog use only the units and comparators of the contract."""
    assert {kind.unit for kind in KINDS.values()} | {entry.unit for entry in CATALOG} <= set(codes.UNITS)
    assert {kind.comparator for kind in KINDS.values()} <= set(codes.COMPARATORS)


def test_codes_are_unique_snake_case() -> None:
    """A code is a stable word: lower case, digits and underscores, listed once."""
    for group in (codes.GATE_REASONS, codes.SWEEP_FAIL_REASONS, codes.CHOICE_REASONS, tuple(codes.NEXT_ACTIONS)):
        assert len(set(group)) == len(group)
        assert all(code.isidentifier() and code == code.lower() for code in group)
