import pytest

from reports.errors import CatalogError, FormatError
from reports.formatting import format_figure
from reports.messages import Catalog
from reports.text import clean_text

JA, EN = Catalog("ja"), Catalog("en")


@pytest.mark.parametrize(
    ("kind", "values", "japanese", "english"),
    [
        ("count", [12345], "12,345", "12,345"),
        ("percent", [0.1234], "12.3%", "12.3%"),
        ("percent", [0.0004], "0.1%未満", "<0.1%"),
        ("percent", [0.0], "0.0%", "0.0%"),
        ("percent_signed", [0.027], "+2.7%", "+2.7%"),
        ("percent_signed", [-0.5], "−50.0%", "−50.0%"),
        ("percent_signed", [0.0001], "±0.0%", "±0.0%"),
        ("points", [-0.008], "−0.8ポイント", "−0.8 points"),
        ("ratio", [1.2345], "1.23倍", "1.23×"),
        ("decimal2", [2.675], "2.68", "2.68"),
        ("seconds", [0.0621], "62.1ミリ秒", "62.1 ms"),
        ("seconds", [1.42], "1.42秒", "1.42 s"),
        ("duration", [228.9], "3.8分", "3.8 min"),
        ("jpy", [12345.4], "12,345円", "¥12,345"),
        ("jpy_short", [2.734], "2.73円", "¥2.73"),
        ("jpy_short", [9876.0], "9,876円", "¥9,876"),
        ("jpy_short", [1234000.0], "123.4万円", "¥1.23M"),
        ("jpy_short", [-48000.0], "−4.8万円", "−¥48.0k"),
        ("jpy_short", [123456789.0], "1.23億円", "¥123.46M"),
        ("jpy_per_mtok", [1249.5], "1,250円/100万トークン", "¥1,250 per million tokens"),
        ("months", [4.42], "4.4か月", "4.4 months"),
        ("date", ["2026-11-23"], "2026年11月23日", "23 November 2026"),
        (
            "datetime",
            ["2026-11-23T09:15:00+09:00"],
            "2026年11月23日 09:15(UTC+0900)",
            "23 November 2026, 09:15 (UTC+0900)",
        ),
        ("flag", [True], "はい", "yes"),
        ("share", [9, 2480], "9 / 2,480件(0.4%)", "9 of 2,480 (0.4%)"),
        ("share", [0, 0], "対象なし", "no cases"),
        ("of", [61440, 612400], "612,400 のうち 61,440", "61,440 of 612,400"),
        ("with_tax", [66000.0, 0.1], "72,600円", "¥72,600"),
        ("kpi", ["S1"], "S1 実測の高速化率", "S1 Measured speed-up"),
        ("limit:points:lower_gt", [-0.02], "下限が−2.0ポイント超", "lower bound above −2.0 points"),
        ("limit:fraction:info", [None], "基準なし(参考値)", "no limit (for information)"),
        ("limit:points:lower_gt", [None], "登録した計画を参照", "see the registered plan"),
        ("limit:percent:upper_le", [0.0125], "上限が1.25%以下", "upper bound at most 1.25%"),
        ("limit:per_s:ge", [5 / 7], "毎秒0.71429件以上", "at least 0.71429 per second"),
        ("limit:per_s:ge", [0.05714285714285714], "毎秒0.05714件以上", "at least 0.05714 per second"),
        ("per_s", [0.08219137557031335], "毎秒0.082件", "0.082 per second"),
        ("per_s", [1.0449], "毎秒1.04件", "1.04 per second"),
        ("text", [600000.0], "600,000", "600,000"),
        ("text", [-0.05714285714285714], "−0.0571429", "−0.0571429"),
        ("list", [[0.1, 0.3]], "0.1, 0.3", "0.1, 0.3"),
    ],
)
def test_each_kind_has_one_rounding_rule_in_both_languages(kind, values, japanese, english):
    """Values come out rounded, signed and with their unit in the local form."""
    assert (format_figure(kind, values, JA), format_figure(kind, values, EN)) == (japanese, english)


def test_intervals_follow_the_local_form():
    """The Japanese interval writes a shared unit once, at its end."""
    values = [-0.008, -0.019, 0.003]
    assert format_figure("interval:points", values, JA) == "−0.8(95%区間 −1.9〜+0.3)ポイント"
    assert format_figure("interval:points", values, EN) == "−0.8 (95% interval −1.9 to +0.3) points"
    assert format_figure("interval:percent", [0.01, 0.005, 0.023], JA) == "1.0%(95%区間 0.5%〜2.3%)"
    assert format_figure("upper:percent", [0.004, 0.0081], JA) == "0.4%(片側95%上限 0.9%)"
    assert format_figure("interval:ratio", [1.2, None, None], JA) == "1.20倍"


def test_bounds_round_outwards_so_that_a_near_miss_never_looks_like_a_pass():
    """A lower bound of 1.0996 does not print as 1.10, an upper bound of 1.001 % not as 1.0 %."""
    assert format_figure("range:ratio", [1.0996, 1.2004], EN) == "1.09× to 1.21×"
    assert format_figure("range:percent", [0.001, 0.01001], EN) == "0.1% to 1.1%"
    # a bound that is exact in decimals stays as it is, whatever its binary form
    assert format_figure("range:points", [-0.019, 0.003], EN) == "−1.9 to +0.3 points"


def test_unknown_kinds_and_unfit_values_are_refused():
    """A figure without a rounding rule cannot be printed."""
    with pytest.raises(FormatError, match="furlongs"):
        format_figure("furlongs", [1], JA)
    with pytest.raises(FormatError, match="percent"):
        format_figure("percent", ["many"], JA)
    with pytest.raises(FormatError, match="one value"):
        format_figure("percent", [0.1, 0.2], JA)
    with pytest.raises(CatalogError, match="fr"):
        Catalog("fr")


def test_outside_text_is_made_visible_and_short():
    """Control, direction and zero-width characters become U+FFFD; long words are cut."""
    assert clean_text("a\x00b\u202ec\u200bd\ne") == "a\ufffdb\ufffdc\ufffdd e"
    assert clean_text("x" * 10_000, 50) == "x" * 49 + "…"
    assert clean_text("日本語と🙂", 50) == "日本語と🙂"
