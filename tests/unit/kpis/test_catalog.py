import doctest
import importlib
import pkgutil
import re
import warnings
from dataclasses import fields

import pytest

import kpis
from kpis import decide
from kpis.catalog import BESIDE, CATALOG, IDS, Entry, entry
from kpis.errors import KpiError
from kpis.gate import KINDS
from kpis.limits import GateLimits
from kpis.records import Evidence
from reports.messages import Catalog
from reports.view_glossary import build as glossary
from reports.view_parts import Reader

LIMITS = GateLimits()
EVIDENCE = Evidence(None, functional_check=False, hardware_matches_target=True, test_openings=0)
MODULES = [f"kpis.{module.name}" for module in pkgutil.iter_modules(kpis.__path__)]


def test_ids_are_in_the_order_of_the_contract() -> None:
    """Q1 to Q7, S1 to S5, C1 to C5, D1."""
    assert " ".join(IDS) == "Q1 Q2 Q3 Q4 Q5 Q6 Q7 S1 S2 S3 S4 S5 C1 C2 C3 C4 C5 D1"


@pytest.mark.parametrize("kpi", [*CATALOG, *BESIDE], ids=lambda kpi: kpi.id)
def test_every_entry_is_explained_in_both_languages(kpi: object) -> None:
    """Each text is there, and the Japanese one is Japanese."""
    texts = vars(kpi)

    assert all(text.strip() for text in texts.values() if isinstance(text, str))
    for field in ("name_ja", "meaning_ja"):
        assert re.search(r"[ぁ-んァ-ン一-龥]", texts[field])
    for field in ("name_en", "meaning_en"):
        assert texts[field].isascii()


@pytest.mark.parametrize("kpi", [*CATALOG, *BESIDE], ids=lambda kpi: kpi.id)
def test_every_entry_names_a_function_that_is_there(kpi: Entry) -> None:
    """One function computes it, and it is documented."""
    module, _, name = kpi.function.rpartition(".")
    function = getattr(importlib.import_module(module), name)

    assert callable(function)
    assert function.__doc__


@pytest.mark.parametrize("kpi", CATALOG, ids=IDS)
def test_catalog_and_gates_agree(kpi: Entry) -> None:
    """Unit, direction and limits of the catalog are those of the gate that is really built."""
    kind = KINDS[kpi.id]
    built = next(row for row in decide.gates(None, None, None, None, EVIDENCE, LIMITS) if row["id"] == kpi.id)

    assert (built["unit"], built["comparator"]) == (kpi.unit, kind.comparator)
    directions = {"lower_gt": True, "lower_ge": True, "ge": True, "upper_le": False, "le": False}
    if kind.comparator == "info":
        assert kpi.gate == "info"
    else:
        assert kpi.higher_is_better is directions[kind.comparator]
        assert (">" in kpi.gate) == kpi.higher_is_better or "<" in kpi.gate
    assert set(kpi.limits) <= {field.name for field in fields(GateLimits)}
    named = [name for name in kpi.limits if name in kpi.gate]
    assert named or kind.comparator == "info" or kpi.id in ("S3", "S4", "D1")
    if built["limit"] is not None and kpi.limits and built["limit"] != 1.0:
        assert abs(built["limit"]) == getattr(LIMITS, kpi.limits[0])


@pytest.mark.parametrize("language", ["ja", "en"])
def test_catalog_and_glossary_agree(language: str) -> None:
    """The report's glossary holds every KPI, in the order of the catalog, with its meaning and formula."""
    kpis_shown = glossary(Reader({}, Catalog(language))).kpis

    assert [kpi.id for kpi in CATALOG] == [term.name.split()[0] for term in kpis_shown]
    for kpi, term in zip(CATALOG, kpis_shown, strict=True):
        name, meaning = (vars(kpi)[f"{part}_{language}"] for part in ("name", "meaning"))
        assert name in term.name
        assert term.text == meaning
        assert kpi.formula in term.formula


def test_figures_of_written_answers_are_found_by_their_id() -> None:
    """A1 to A4 are looked up like any KPI, decide nothing, and are no gates."""
    assert [kpi.id for kpi in BESIDE] == ["A1", "A2", "A3", "A4"]
    for kpi in BESIDE:
        assert entry(kpi.id) is kpi
        assert (kpi.gate, kpi.limits) == ("info", ())
        assert kpi.id not in KINDS


def test_unknown_id() -> None:
    """The message names the known ids."""
    with pytest.raises(KpiError, match="Q1"):
        entry("X9")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name: str) -> None:
    """Every example in the documentation gives what it says."""
    with warnings.catch_warnings():
        # doctest itself warns on Python 3.11 about its own unittest hooks when warnings are errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = doctest.testmod(importlib.import_module(name))

    assert results.failed == 0
