import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.errors import ResultError
from reports.messages import Catalog
from reports.redact import redact
from reports.render import render
from reports.result import validate
from reports.view_parts import Reader
from reports.view_token_map import N_GRIDS, build, cells_path


def _map(result, language="ja"):
    return build(Reader(result, Catalog(language)))


def test_the_map_knows_every_measured_setting_and_starts_at_the_chosen_one(fx):
    """Seven settings, the chosen one drawn first, its counts and layers those of the result."""
    result = fx.go()
    shown = _map(result)
    passage = result["token_map"]["passages"][0]
    assert [index for _, index in shown.levels] == list(range(7))
    assert shown.start == result["choice"]["sweep_index"] == 3
    assert [token.n_skipped for token in shown.passages[0].tokens] == passage["n_skipped"][3]
    token = shown.passages[0].tokens[3]
    assert token.layers == "3, 4, 5, 6, 7, 8"
    assert token.counts == tuple(counts[3] for counts in passage["n_skipped"])


def test_without_a_choice_the_setting_that_skips_most_is_drawn(fx):
    """A result without a threshold still shows the map."""
    assert _map(fx.no_threshold()).start == 6


def test_a_result_with_one_recorded_setting_is_shown_without_a_slider(fx):
    """Older results hold counts of the chosen setting only: no layers, one column, no second slider on the page."""
    result = fx.go()
    del result["token_map"]
    shown = _map(result)
    assert (len(shown.levels), shown.layers, shown.passages[0].grid) == (1, "", None)
    assert [token.n_skipped for token in shown.passages[0].tokens] == result["passages"][0]["skipped_layers"]
    assert 'id="token-level"' not in render(result, "ja")


def test_layers_are_drawn_for_the_first_passages_only(fx):
    """Twenty passages keep their counts; the picture of layers stops after a few, which keeps the page small."""
    result = fx.go()
    result["token_map"]["passages"] = [result["token_map"]["passages"][0]] * 20
    shown = _map(result)
    assert [passage.grid is not None for passage in shown.passages] == [True] * N_GRIDS + [False] * (20 - N_GRIDS)
    assert all(token.layers == "" for token in shown.passages[-1].tokens)
    assert shown.passages[-1].tokens[3].n_skipped == 6


@given(st.lists(st.integers(0, 2**9 - 1), max_size=40))
def test_the_drawing_covers_exactly_the_skipped_cells(masks):
    """Read back from the path, the cells are the bits of the masks."""
    cells = set()
    for stroke in cells_path(masks, 9).split("M")[1:]:
        place, width = stroke.split("h")
        column, row = map(int, place.split())
        cells |= {(column + offset, 8 - row) for offset in range(int(width))}
    assert cells == {(column, unit) for column, mask in enumerate(masks) for unit in range(9) if mask >> unit & 1}


def _drop_a_mask(token_map):
    token_map["passages"][0]["masks"].pop()


def _wrong_bits(token_map):
    token_map["passages"][0]["masks"] = ["0 " * 17 + "1"] * 7


def _unknown_point(token_map):
    token_map["points"][-1] = 7


def _short_classes(token_map):
    token_map["passages"][1]["classes"].pop()


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (_drop_a_mask, "/token_map/passages/0/masks"),
        (_wrong_bits, "/token_map/passages/0/masks/0"),
        (_unknown_point, "/token_map/points"),
        (_short_classes, "/token_map/passages/1/classes"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(fx, spoil, where):
    """Missing settings, masks that do not add up, unknown settings and short lists name their place."""
    result = fx.go()
    result["token_map"] = copy.deepcopy(result["token_map"])
    spoil(result["token_map"])
    with pytest.raises(ResultError, match=where):
        validate(result)


def test_redaction_leaves_no_word_of_a_passage_and_no_name_of_a_slice(fx, language):
    """The redacted page keeps every count and the verdict; texts, slice names and the tracking address are gone."""
    result = fx.go()
    names = {row["name"] for part in ("confirmation", "detail") for row in result[part]["slices"]}
    before = copy.deepcopy(result)
    shown = redact(result)
    html = render(shown, language)
    assert result == before
    assert [word for word in ("秒数", "要求を", "既定値") if word in html] == []
    assert [name for name in names if f">{name}<" in html] == []
    assert result["run"]["mlflow"]["tracking_uri"] not in html
    assert shown["verdict"] == result["verdict"]
    assert shown["token_map"]["passages"][0]["n_skipped"] == result["token_map"]["passages"][0]["n_skipped"]
    marker = {"ja": "社内文書の本文: 含まない", "en": "In-house text: none"}[language]
    assert html.count(marker) == 2


def test_a_page_with_excerpts_says_so_on_the_screen_and_on_every_sheet(fx):
    """The marker stands in the bar that stays on top and in the margin of printed pages; it needs no escaping."""
    html = render(fx.go(), "ja")
    assert html.count("社内文書の本文: 抜粋あり(取扱注意)") == 2
    for language in ("ja", "en"):
        for key in ("marker.shown", "marker.redacted"):
            assert not set(Catalog(language).text(key)) & set("\"\\<>&'\n")
