import re
import string

import pytest

from kpis import codes
from reports.errors import CatalogError
from reports.messages import FAMILIES, Catalog, messages
from reports.view_glossary import TERMS

_STAGES_AND_CLASSES = (
    "stage.",
    "class.",
    "factor.",
    "reason.",
    "action.",
    "code.",
    "control.",
    "phase.",
    "routing.",
    "metric.",
)


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_both_catalogs_have_the_same_keys_and_none_is_empty():
    """No string is missing in either language."""
    assert messages("ja").keys() == messages("en").keys()
    assert [key for language in ("ja", "en") for key, text in messages(language).items() if not text.strip()] == []


def test_both_languages_use_the_same_parameters():
    """A translation neither drops nor invents a figure (the order may differ)."""
    differing = [key for key in messages("ja") if _fields(messages("ja")[key]) != _fields(messages("en")[key])]
    assert differing == []


def test_every_code_of_kpis_has_a_sentence():
    """Reasons, actions, factors, bases and states that kpis can emit are all translated."""
    expected = {f"reason.{code}" for code in codes.VERDICT_REASONS + codes.SWEEP_FAIL_REASONS + codes.CHOICE_REASONS}
    expected |= {f"reason.{code}" for code in codes.PAYBACK_REASONS}
    expected |= {f"action.{code}" for code in codes.NEXT_ACTIONS}
    expected |= {f"factor.{code}" for code in codes.TORNADO_FACTORS}
    expected |= {f"code.{code}" for code in codes.COST_BASES + codes.FUNCTIONAL_CHECK_REASONS + codes.RESPONSE_BASES}
    expected |= {f"state.{code}" for code in codes.GATE_STATES}
    expected |= {f"limit.{code}" for code in codes.COMPARATORS}
    expected |= {f"verdict.{code}" for code in codes.VERDICT_CODES}
    expected |= {f"stale.{code}" for code in codes.PRICE_STALE_STATES}
    assert expected - messages("ja").keys() == set()


def test_actions_use_no_parameter_that_kpis_does_not_send():
    """Every parameter in an action's sentence is one that the action carries."""
    for code, params in codes.NEXT_ACTIONS.items():
        assert _fields(messages("ja")[f"action.{code}"]) <= set(params), code


def test_no_message_is_unused(fx, used_messages):
    """Every key is either printed by some situation or belongs to a family of codes."""
    used = set()
    for situation in fx.BUILDERS:
        for language in ("ja", "en"):
            used |= used_messages(situation, language)
    unused = {key for key in messages("ja").keys() - used if not key.startswith(_STAGES_AND_CLASSES)}
    # Words for values that the hand-made results happen not to hold: months, units of size, stale prices, ...
    variants = (
        r"month\.\d+|unit\..*|limit\..*|(interval|range|bounds|span|draws|spread|ranged)\..*|stale\..*|profile\..*"
    )
    rest = r"|empty\..*|speed\.summary\..*|missing\..*|unknown\.code|number\.below|passages\.cut|state\..*"
    rest += r"|ask\..*|token\..*|history\..*"
    assert sorted(key for key in unused if not re.fullmatch(variants + rest, key)) == []


def test_japanese_is_japanese():
    """No English sentence was left in the Japanese catalog."""
    sentences = [text for text in messages("ja").values() if len(text.split()) > 5]
    assert [text for text in sentences if not re.search(r"[ぁ-んァ-ン一-龥]", text)] == []


def test_lookups_are_strict_but_codes_of_a_newer_kpis_stay_readable():
    """A missing key or parameter is an error; an unknown code is shown as a code."""
    catalog = Catalog("en")
    with pytest.raises(CatalogError, match="nothing"):
        catalog.text("nothing.here")
    with pytest.raises(CatalogError, match=r"choice\.text"):
        catalog.text("choice.text")
    assert catalog.family("reason", "brand_new") == "code brand_new"
    assert "—" in catalog.family("action", "collect_items")
    assert "reason" in FAMILIES


def test_every_term_is_explained_in_both_languages():
    """Each glossary term has a name and one sentence."""
    assert {f"term.{name}{end}" for name in TERMS for end in ("", ".text")} <= messages("en").keys()
