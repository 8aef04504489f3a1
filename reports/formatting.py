"""From a value to the text a reader sees: one rounding rule per kind of figure, in Japanese and English.

Point values round half up on their decimal form. Bounds round outwards (lower bounds down, upper bounds up),
so that a bound that misses its limit by a hair never prints as if it had met it. A percentage that is not zero
never prints as 0.0 %. Fractions (0..1) become per cent only here.

Figures that consist of several values (a value with its interval, a price with tax) are kinds too: they take the
values in a stated order, which lets a test recompute every figure of the page from result.json.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from kpis.catalog import entry as kpi_entry
from reports.errors import FormatError
from reports.messages import Catalog
from reports.text import clean_text

MINUS = "−"


@dataclass(frozen=True)
class Rule:
    """Rounding rule of one kind: factor, decimals, sign, and the message that carries the unit."""

    factor: Decimal = Decimal(1)
    decimals: int = 0
    signed: bool = False
    unit: str | None = None
    unit_once: bool = False
    """Whether an interval writes the unit once at its end: −0.8(95%区間 −1.9〜+0.3)ポイント."""
    never_zero: bool = False


_PERCENT = Decimal(100)
RULES: dict[str, Rule] = {
    "count": Rule(),
    "items": Rule(unit="unit.items"),
    "decimal2": Rule(decimals=2),
    "decimal3": Rule(decimals=3),
    "decimal4": Rule(decimals=4),
    "percent": Rule(_PERCENT, 1, unit="unit.percent", never_zero=True),
    "percent_signed": Rule(_PERCENT, 1, signed=True, unit="unit.percent"),
    "points_plain": Rule(_PERCENT, 1, unit="unit.points"),
    "p_value": Rule(decimals=3, never_zero=True),
    "points": Rule(_PERCENT, 1, signed=True, unit="unit.points", unit_once=True),
    "ratio": Rule(decimals=2, unit="unit.ratio"),
    "months": Rule(decimals=1, unit="unit.months"),
    "per_s": Rule(decimals=2, unit="unit.per_s"),
    "per_s_small": Rule(decimals=3, unit="unit.per_s"),
    "gib": Rule(decimals=1, unit="unit.gib"),
    "jpy": Rule(unit="unit.jpy"),
    "usd": Rule(decimals=2, unit="unit.usd"),
    "fx": Rule(decimals=2, unit="unit.jpy"),
    "jpy_per_mtok": Rule(unit="unit.jpy_per_mtok"),
    "days": Rule(unit="unit.days"),
    "hours": Rule(unit="unit.hours"),
    "ms": Rule(Decimal(1000), 1, unit="unit.ms"),
    "s": Rule(decimals=2, unit="unit.s"),
    "minutes": Rule(Decimal(1) / 60, 1, unit="unit.minutes"),
    "man": Rule(Decimal("1e-4"), 1, unit="unit.man"),
    "oku": Rule(Decimal("1e-8"), 2, unit="unit.oku"),
    "thousand": Rule(Decimal("1e-3"), 1, unit="unit.thousand"),
    "million": Rule(Decimal("1e-6"), 2, unit="unit.million"),
}
GATE_KINDS = {
    "fraction": "percent",
    "points": "points",
    "ratio": "ratio",
    "seconds": "seconds",
    "jpy": "jpy_short",
    "jpy_per_mtok": "jpy_per_mtok",
    "count": "count",
    "months": "months",
    "per_s": "per_s",
}
"""Kind of figure for each gate unit of result.json."""


def format_figure(kind: str, values: Sequence[Any], catalog: Catalog) -> str:
    """Text of a figure.

    Args:
        kind: a key of RULES, an adaptive kind (`seconds`, `duration`, `jpy_short`), a text kind (`text`, `hash`,
            `list`, `flag`, `date`, `datetime`, `kpi`, `code:FAMILY`), or a composite that takes several values:
            `interval:KIND` and `draws:KIND` (value, low, high), `upper:KIND` (value, high), `range:KIND`,
            `bounds:KIND` (one-sided), `span:KIND` (two-sided) and `spread:KIND` (low, high),
            `ranged:KIND` (value, low, high; the page says elsewhere what the bounds are),
            `difference:KIND` (value, reference, lower bound of the difference), `limit:KIND:COMPARATOR` (limit),
            `share` and `of` (part, whole), `with_tax` (amount, tax rate), `condition` (phase, batch, prompt tokens,
            output tokens, routing).
        values: the values at the figure's paths, none of them None where the kind needs it.
        catalog: language of the units.

    Raises:
        FormatError: when the kind is unknown or the values do not fit it.
    """
    head, _, rest = kind.partition(":")
    try:
        if head in _COMPOSITES:
            return _COMPOSITES[head](rest, values, catalog)
        if len(values) != 1:
            raise FormatError(f"expected one value for kind {kind!r}, got {len(values)}; name the right kind")
        if head in _TEXTS:
            return _TEXTS[head](rest, values[0], catalog)
        return _number(kind, values[0], ROUND_HALF_UP, catalog)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise FormatError(f"expected values that fit kind {kind!r}, got {values!r} ({error})") from error


def _concrete(kind: str, value: Any, language: str) -> str:
    """Kind that an adaptive kind stands for, chosen by size so that 2 to 5 digits remain."""
    size = abs(value)
    if kind in {"seconds", "duration"}:
        short, long, bound = ("ms", "s", 1) if kind == "seconds" else ("s", "minutes", 120)
        return short if size < bound else long
    if kind == "per_s" and 0 < size < 1:
        return "per_s_small"
    if kind == "jpy_short" and 0 < size < 100:
        return "fx"
    if kind == "jpy_short" and language == "ja":
        return "jpy" if size < 1e4 else ("man" if size < 1e8 else "oku")
    if kind == "jpy_short":
        return "jpy" if size < 1e4 else ("thousand" if size < 1e6 else "million")
    return kind


def _number(kind: str, value: Any, rounding: str, catalog: Catalog, bare: bool = False) -> str:
    concrete = _concrete(kind, value, catalog.language)
    if concrete not in RULES:
        raise FormatError(f"expected a kind of {sorted(RULES)}, got {kind!r}; add a rounding rule for it")
    rule = RULES[concrete]
    exact = Decimal(repr(value)) * rule.factor
    step = Decimal(1).scaleb(-rule.decimals)
    rounded = exact.quantize(step, rounding=rounding)
    if rule.never_zero and rounded == 0 and exact != 0 and rounding == ROUND_HALF_UP:
        return catalog.text("number.below", limit=_unit(rule, str(step), catalog))
    text = f"{abs(rounded):,f}"
    sign = MINUS if rounded < 0 else ("+" if rounded > 0 else "±") if rule.signed else ""
    return sign + (text if bare else _unit(rule, text, catalog))  # −¥48, not ¥−48


def _unit(rule: Rule, text: str, catalog: Catalog) -> str:
    return text if rule.unit is None else catalog.text(rule.unit, number=text)


def _bounds(family: str, kind: str, values: Sequence[Any], catalog: Catalog) -> str:
    """`[value,] low, high` with the unit on each number, or once at the end where the rule says so."""
    *point, low, high = values
    rule = RULES.get(kind, Rule())
    parts = {}
    if point:
        parts["value"] = _number(kind, point[0], ROUND_HALF_UP, catalog, rule.unit_once)
    if low is not None:
        parts["low"] = _number(kind, low, ROUND_FLOOR, catalog, rule.unit_once)
    if high is not None:
        parts["high"] = _number(kind, high, ROUND_CEILING, catalog, rule.unit_once)
    present = ("low" in parts) + 2 * ("high" in parts)
    key = ("none", "lower", "upper", "both")[present]
    if key == "none":
        text = parts.get("value", catalog.text("missing.interval"))
    else:
        text = catalog.text(f"{family}.{key}", **parts)
    return _unit(rule, text, catalog) if rule.unit_once else text


def _difference(kind: str, values: Sequence[Any], catalog: Catalog) -> str:
    """`value - reference` in decimal arithmetic, with the lower bound of the difference."""
    value, reference, low = values
    delta = float(Decimal(repr(value)) - Decimal(repr(reference)))
    return _bounds("interval", kind, (delta, low, None), catalog)


def _limit(rest: str, values: Sequence[Any], catalog: Catalog) -> str:
    kind, _, comparator = rest.partition(":")
    if values[0] is None:
        return catalog.text("limit.none" if comparator == "info" else "limit.see_plan")
    rule = RULES.get(_concrete(kind, values[0], catalog.language), Rule())
    exact = (Decimal(repr(values[0])) * rule.factor).normalize()
    shown = exact.quantize(Decimal(1).scaleb(-rule.decimals), rounding=ROUND_HALF_UP)
    if shown == exact:
        text = _number(kind, values[0], ROUND_HALF_UP, catalog)
    else:  # a registered limit is printed exactly; one computed from other figures with two more digits
        finer = exact.quantize(Decimal(1).scaleb(-rule.decimals - 2), rounding=ROUND_HALF_UP).normalize()
        text = _unit(rule, f"{finer:,f}".replace("-", MINUS), catalog)
    return catalog.text(f"limit.{comparator}", limit=text)


def _share(_: str, values: Sequence[Any], catalog: Catalog) -> str:
    part, whole = values
    if not whole:
        return catalog.text("missing.no_cases")
    return catalog.text(
        "number.share",
        part=_number("count", part, ROUND_HALF_UP, catalog),
        whole=_number("count", whole, ROUND_HALF_UP, catalog),
        percent=_number("percent", part / whole, ROUND_HALF_UP, catalog),
    )


def _of(_: str, values: Sequence[Any], catalog: Catalog) -> str:
    part, whole = (_number("count", value, ROUND_HALF_UP, catalog) for value in values)
    return catalog.text("number.of", part=part, whole=whole)


def _with_tax(_: str, values: Sequence[Any], catalog: Catalog) -> str:
    amount, tax_rate = values
    return _number("jpy", float(Decimal(repr(amount)) * (1 + Decimal(repr(tax_rate)))), ROUND_HALF_UP, catalog)


def _condition(_: str, values: Sequence[Any], catalog: Catalog) -> str:
    phase, batch, prompt, output, routing = values
    return catalog.text(
        "speed.condition.prefill" if output is None else "speed.condition",
        phase=catalog.family("phase", phase),
        batch=f"{batch:,}",
        prompt=f"{prompt:,}",
        output="" if output is None else f"{output:,}",
        routing=catalog.family("routing", routing),
    )


def _date(_: str, value: Any, catalog: Catalog) -> str:
    day = datetime.date.fromisoformat(str(value)[:10])
    month = catalog.text(f"month.{day.month}")
    return catalog.text("date", year=day.year, month=month, day=day.day)


def _datetime(_: str, value: Any, catalog: Catalog) -> str:
    moment = datetime.datetime.fromisoformat(str(value))
    return catalog.text("datetime", date=_date("", value, catalog), time=f"{moment:%H:%M}", zone=f"{moment:%z}"[:5])


def _flag(_: str, value: Any, catalog: Catalog) -> str:
    return catalog.text("flag.yes" if value else "flag.no")


def kpi_name(kpi_id: str, language: str) -> str:
    """Id and name of a KPI as the KPI catalog has it, such as `Q1 品質の非劣性`."""
    entry = kpi_entry(kpi_id)
    return f"{kpi_id} {entry.name_ja if language == 'ja' else entry.name_en}"


def _list(_: str, value: Any, catalog: Catalog) -> str:
    return ", ".join(_plain("", part, catalog) for part in value)[:400] or catalog.text("missing.none")


def _plain(_: str, value: Any, catalog: Catalog) -> str:
    """A value of unknown kind, such as a setting: decimals keep six significant digits."""
    if isinstance(value, bool):
        return _flag("", value, catalog)
    if isinstance(value, float):
        exact = Decimal(repr(value))
        decimals = max(0, 5 - exact.adjusted())
        rounded = exact.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP).normalize()
        return f"{rounded:,f}".replace("-", MINUS)
    return clean_text(str(value), 400) or catalog.text("missing.none")


_COMPOSITES: dict[str, Callable[[str, Sequence[Any], Catalog], str]] = {
    "interval": lambda kind, values, catalog: _bounds("interval", kind, values, catalog),
    "upper": lambda kind, values, catalog: _bounds("interval", kind, (values[0], None, values[1]), catalog),
    "bounds": lambda kind, values, catalog: _bounds("bounds", kind, values, catalog),
    "span": lambda kind, values, catalog: _bounds("span", kind, values, catalog),
    "range": lambda kind, values, catalog: _bounds("range", kind, values, catalog),
    "draws": lambda kind, values, catalog: _bounds("draws", kind, values, catalog),
    "spread": lambda kind, values, catalog: _bounds("spread", kind, values, catalog),
    "difference": _difference,
    "ranged": lambda kind, values, catalog: _bounds("ranged", kind, values, catalog),
    "limit": _limit,
    "share": _share,
    "of": _of,
    "with_tax": _with_tax,
    "condition": _condition,
}
_TEXTS: dict[str, Callable[[str, Any, Catalog], str]] = {
    "text": _plain,
    "hash": lambda _, value, __: clean_text(str(value), 16),
    "list": _list,
    "flag": _flag,
    "date": _date,
    "datetime": _datetime,
    "kpi": lambda _, value, catalog: kpi_name(str(value), catalog.language),
    "code": lambda family, value, catalog: catalog.family(family, str(value)),
}
