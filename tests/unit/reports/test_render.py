import base64
import hashlib
import math
import re

import pytest

from reports.errors import ReportError, ResultError
from reports.formatting import format_figure
from reports.messages import Catalog
from reports.render import render, write_report
from reports.result import lookup

_UNQUOTE = re.compile(r"%([0-9A-F]{2})")


def _paths(node):
    from urllib.parse import unquote

    return [unquote(path) for path in node.get("data-path").split(" ")]


def _text(node):
    return node.text_content().strip()


def test_every_figure_is_found_in_the_result(fx, page, tree, situation, language):
    """Each element with a data-path shows exactly the value at that JSON pointer, formatted by its kind."""
    result = fx.BUILDERS[situation]()
    catalog = Catalog(language)
    nodes = tree(page(situation, language)).xpath("//*[@data-path]")
    assert len(nodes) > 60
    for node in nodes:
        values = [lookup(result, path) for path in _paths(node)]
        kind = node.get("data-kind")
        if kind == "token_map":
            assert [int(_text(part)) for part in node.iter("i")] == values[0]
        elif kind == "token_table":
            n_points = len(values[0])
            rows = [[_text(cell) for cell in row][3 : 3 + n_points] for row in node.iter("tr")]
            assert rows == [[str(counts[position]) for counts in values[0]] for position in range(len(values[0][0]))]
        elif "missing" in node.get("class"):
            assert None in values
        else:
            assert _text(node) == format_figure(kind, values, catalog)


def test_no_figure_stands_in_a_table_or_tile_without_its_address(page, tree, situation, language):
    """Take away everything with a data-path, and no digit is left in any cell or tile value."""
    document = tree(page(situation, language))
    for node in document.xpath("//*[@data-path]"):
        node.text = ""
        for child in list(node):
            node.remove(child)
    places = document.xpath("//td | //*[contains(@class, 'tile')]//*[self::h3 or self::p]")
    assert len(places) > 20
    left = [_text(place) for place in places if re.search(r"\d", _text(place))]
    # Two words of the catalog carry digits: the 99th percentile, and int8, the name of a number format.
    assert [text for text in left if re.search(r"\d", re.sub(r"99|int8", "", text))] == []


def test_no_number_is_printed_unrounded(fx, tree, situation, language):
    """With every decimal of a result as long as a computer makes it, no number shows over 6 significant digits."""
    result = _with_long_decimals(fx.BUILDERS[situation]())
    document = tree(render(result, language))
    for node in document.xpath("//style | //script | //*[@data-kind = 'hash']"):
        node.text = ""
    numbers = [found for text in document.itertext() for found in re.findall(r"(?<![\w.])\d[\d,]*\.\d+", text)]
    assert numbers
    assert [number for number in numbers if len(re.sub(r"\D", "", number).lstrip("0")) > 6] == []


def _with_long_decimals(node):
    """The same result with every float that is not whole changed by less than a millionth, as real ones look."""
    if isinstance(node, dict):
        return {key: _with_long_decimals(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_long_decimals(value) for value in node]
    is_fraction = isinstance(node, float) and not node.is_integer()
    return node * (1 - math.pi * 1e-8) if is_fraction else node


def test_all_sections_and_the_verdict_are_there(page, tree, situation, language):
    """Nine sections, one h1, every link of the contents resolves, ids are unique."""
    document = tree(page(situation, language))
    sections = [node.get("id") for node in document.xpath("//main/section")]
    assert sections == ["conclusion", "evidence", "speed", "cost", "risks", "roadmap", "details", "glossary", "how"]
    ids = [node.get("id") for node in document.xpath("//*[@id]")]
    assert len(ids) == len(set(ids))
    assert {link.get("href")[1:] for link in document.xpath("//a")} <= set(ids)
    assert len(document.xpath("//h1")) == 1
    assert document.get("lang") == language
    assert document.xpath("//*[contains(@class, 'stamp')]//*[contains(@class, 'word')]")


def test_the_page_is_small_and_the_same_every_time(fx, page):
    """At most 500 KB, and the same bytes for the same result."""
    text = page("go", "ja")
    assert len(text.encode()) < 500_000
    assert render(fx.go(), "ja") == text


def test_twenty_full_passages_and_ten_points_still_fit(fx):
    """The largest page the product makes stays within 500 KB."""
    result = fx.go()
    passage = {"id": "p", "language": "ja", "tokens": ["要求を"] * 64, "n_tokens": 64, "critical": [True] * 64}
    result["passages"] = [passage | {"skipped_layers": [7] * 64}] * 20
    masks = [" ".join(f"{0b10010010010010 << position % 7:x}" for position in range(64))] * 10
    drawn = {"classes": ["directive"] * 64, "n_skipped": [[5] * 64] * 10, "masks": masks}
    result["token_map"] |= {"points": list(range(10)), "passages": [passage | drawn] * 20}
    extra = [result["sweep"][6] | {"index": index, "threshold": 0.8 + index / 100} for index in range(7, 10)]
    result["sweep"] += extra
    assert len(render(result, "ja").encode()) < 500_000


def test_the_content_security_policy_allows_exactly_the_two_inline_blocks(page, tree):
    """The hashes in the policy are those of the style and script in the page; nothing else is allowed."""
    text = page("go", "ja")
    policy = tree(text).xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    for block in (style, script):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert len(script) < 10_000


def test_nothing_points_outside_the_file(page, tree, situation, language):
    """No URL is loaded, no event handler, no style attribute, no form."""
    text = page(situation, language)
    document = tree(text)
    assert document.xpath("//*[@src or @style or @action or @srcset]") == []
    assert document.xpath("//link | //iframe | //img | //form | //object | //embed") == []
    assert all(link.get("href").startswith("#") for link in document.xpath("//*[@href]"))
    assert not re.search(r"<[^>]+\son[a-z]+=", text)
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", text)


def test_tables_and_charts_are_accessible(page, tree, situation, language):
    """Every table has a caption and scoped headers, every chart a title and a description."""
    document = tree(page(situation, language))
    for table in document.xpath("//table"):
        assert table.xpath("caption")
        assert all(head.get("scope") in {"col", "row"} for head in table.xpath(".//th"))
    for svg in document.xpath("//*[local-name()='svg']"):
        assert svg.get("role") == "img"
        assert len(svg.xpath("./*[local-name()='title' or local-name()='desc']")) == 2
    for state in document.xpath("//*[contains(concat(' ', @class), ' state ')]"):
        icon = state.xpath("./*[contains(@class, 'icon')]")[0]
        assert icon.text.strip()
        assert _text(state) != icon.text.strip()


def test_hostile_text_is_inert(fx, tree):
    """Markup, scripts, direction marks, NUL and endless words become harmless, short text in both languages."""
    for offset, language in ((0, "ja"), (2, "en"), (4, "ja"), (6, "ja")):
        html = render(fx.hostile(offset), language)
        document = tree(html)
        assert len(document.xpath("//script")) == 1
        assert document.xpath("//img | //*[@onload or @onerror]") == []
        assert not re.search("[\x00\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff]", html)
        # Addresses keep a setting's key whole (percent-encoded, never displayed); what is displayed is cut.
        assert not re.search(r"(long){120}", re.sub(r'data-path="[^"]*"', "", html))
        assert len(html.encode()) < 500_000


def test_an_invalid_result_or_language_renders_nothing(fx):
    """Half a result gives an error, not half a report."""
    result = fx.go()
    del result["verdict"]
    with pytest.raises(ResultError, match="verdict"):
        render(result, "ja")
    with pytest.raises(ReportError, match="de"):
        render(fx.go(), "de")


def test_the_file_is_written_whole_or_not_at_all(fx, page, tmp_path):
    """The report replaces an older one in one step and leaves nothing else behind."""
    path = tmp_path / "run" / "report.html"
    write_report(fx.go(), path, "ja")
    assert path.read_text(encoding="utf-8") == page("go", "ja")
    broken = fx.go()
    broken["gates"] = []
    with pytest.raises(ResultError):
        write_report(broken, path, "ja")
    assert path.read_text(encoding="utf-8") == page("go", "ja")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(ReportError, match="writable"):
        write_report(fx.go(), blocked / "report.html", "ja")
