import doctest
import importlib
import pkgutil
import re
import warnings

import pytest

import kpis
from kpis.catalog import CATALOG, IDS, entry
from kpis.errors import KpiError

MODULES = [f"kpis.{module.name}" for module in pkgutil.iter_modules(kpis.__path__)]


def test_ids_are_in_the_order_of_the_contract() -> None:
    """Q1 to Q7, S1 to S5, C1 to C5, D1."""
    assert " ".join(IDS) == "Q1 Q2 Q3 Q4 Q5 Q6 Q7 S1 S2 S3 S4 S5 C1 C2 C3 C4 C5 D1"


@pytest.mark.parametrize("kpi", CATALOG, ids=IDS)
def test_every_entry_is_explained_in_both_languages(kpi: object) -> None:
    """Each text is there, and the Japanese one is Japanese."""
    texts = vars(kpi)

    assert all(texts[field].strip() for field in texts if isinstance(texts[field], str))
    for field in ("name_ja", "meaning_ja"):
        assert re.search(r"[ぁ-んァ-ン一-龥]", texts[field])
    for field in ("name_en", "meaning_en"):
        assert texts[field].isascii()


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
