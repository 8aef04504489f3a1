import dataclasses

import pytest

from reports import charts, charts_money
from reports.messages import Catalog
from reports.view import build_view
from reports.view_parts import Figure


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Charts have their own tests; drawing them here would only cost time."""
    for module, names in (
        (charts, ("quality_map", "layer_bars", "time_chart")),
        (charts_money, ("money_bars", "tornado")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: "<svg/>")


def _view(result, language="ja"):
    return build_view(result, Catalog(language))


def _figures(node):
    if isinstance(node, Figure):
        yield node
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _figures(getattr(node, field.name))
    elif isinstance(node, tuple):
        for part in node:
            yield from _figures(part)


def test_the_first_screen_has_verdict_reason_evidence_and_five_tiles(fx):
    """A manager finds the decision, why, and the five figures without opening anything."""
    view = _view(fx.functional_check_no_go()).conclusion
    assert (view.word, view.evidence.word) == ("No-Go", "不足")
    assert view.reason == "層を省略しても、実際の時間は基準まで短くなりませんでした。"
    assert [tile.gate_id.text for tile in view.tiles] == ["Q1", "Q4", "S1", "C3", "D1"]
    assert view.banner is not None
    assert view.banner.title == "機能確認用"
    assert "0.94倍" in view.actions[1]
    assert "812件" in view.actions[3]


def test_a_tile_shows_value_interval_limit_and_state(fx):
    """The quality tile has all four, in the local form."""
    tile = _view(fx.functional_check_no_go()).conclusion.tiles[0]
    assert tile.value.text == "−1.0ポイント"
    assert tile.interval.text == "片側95%: −5.5〜+3.0ポイント"
    assert tile.limit.text == "下限が−2.0ポイント超"
    assert (tile.state.icon, tile.state.word) == ("?", "判定保留")


def test_the_saving_tile_shows_yen_and_its_probability(fx):
    """The gate is a probability; the reader asks for yen."""
    tile = _view(fx.go()).conclusion.tiles[3]
    assert tile.value.paths == ("/cost/saving_jpy/p50",)
    assert tile.extra.text == "91.2%"
    tile = _view(fx.everything_missing()).conclusion.tiles[3]
    assert (tile.value.text, tile.value.reason) == ("未測定", "費用を計算していません。")


def test_every_verdict_has_its_own_words_and_icon(fx):
    """The four verdicts are told apart without colour."""
    seen = []
    for code in ("go", "conditional_go", "no_go", "no_go_insufficient_evidence"):
        result = fx.go()
        result["verdict"]["code"] = code
        view = _view(result)
        seen.append((view.conclusion.icon, view.conclusion.word, view.page_title.split("|")[1]))
    assert seen == [
        ("✔", "Go", "Go"),
        ("!", "条件付きGo", "条件付きGo"),
        ("✖", "No-Go", "No-Go"),
        ("?", "No-Go", "No-Go(証拠不足)"),
    ]


def test_no_threshold_is_said_plainly_and_everything_measured_stays(fx):
    """Without a choice the sweep, the controls, the chart and the speed are still shown."""
    view = _view(fx.no_threshold())
    assert view.evidence.choice.title == "採用できるしきい値はありませんでした"
    assert view.evidence.confirmation.rows == ()
    assert len(view.evidence.sweep.rows) == 7
    assert len(view.evidence.controls.rows) == 8
    assert view.evidence.quality_map is not None
    assert view.evidence.layers.caption.endswith("採用はしていません)")
    assert view.speed.rows.rows != ()


def test_the_quick_profile_says_what_it_means(fx):
    """A quick run names the subset it trained on and claims nothing about quality."""
    text = _view(fx.functional_check_conditional()).risks.profile.text
    assert "612,400トークンのうち61,440トークン" in text
    assert "品質や効果を主張するものではありません" in text


def test_counted_estimated_and_measured_are_three_columns(fx):
    """Layers skipped never stand in a column of time."""
    table = _view(fx.go()).speed.rows
    assert table.columns[1:4] == ("① 数えた省略量(スキップ率)", "② 推定の上限", "③ 実測の高速化率")
    kinds = [cell.kind for cell in table.rows[1].cells[1:4]]
    assert kinds == ["percent", "ratio", "interval:ratio"]


def test_conversion_without_a_gain_to_convert_is_undefined_with_its_reason(fx):
    """Where next to nothing was skipped the speed table says that no share can be computed, and why."""
    result = fx.go()
    cell = _view(result).speed.rows.rows[0].cells[-1]
    assert (cell.text, cell.reason) == ("計算できない", "省略がごく少ないため、計算できません。")
    index = next(index for index, gate in enumerate(result["gates"]) if gate["id"] == "S2")
    result["gates"][index] |= {"value": None, "reason": "conversion_undefined"}
    assert _view(result).evidence.gates.rows[index].cells[2].text == "計算できない"


def test_yen_from_another_machine_than_the_priced_one_carry_a_caution(fx):
    """The cost section and the saving tile say that seconds and price belong to different machines."""
    view = _view(fx.functional_check_no_go())
    assert "CPU(Intel Xeon 2.20 GHz)" in view.cost.caution.text
    assert "AWS g6e.xlarge (L40S) Tokyo" in view.cost.caution.text
    assert "測定と単価の機械が異なり" in view.conclusion.tiles[3].notes[-1]
    assert _view(fx.go()).cost.caution is None
    assert _view(fx.everything_missing()).cost.caution is None


@pytest.mark.parametrize(
    ("device", "price", "is_cautioned"),
    [
        ("NVIDIA L40S", "g6e.xlarge, on demand (1x NVIDIA L40S 48 GB, ap-northeast-1)", False),
        ("NVIDIA H100 80GB HBM3", "H100, on demand (1x NVIDIA H100 80 GB, eastus)", False),
        ("NVIDIA H100 80GB HBM3", "A100 80 GB, on demand (1x NVIDIA A100 80 GB, us-east1)", True),
        ("NVIDIA L4", "g6e.xlarge, on demand (1x NVIDIA L40S 48 GB, ap-northeast-1)", True),
        ("NVIDIA GeForce RTX 4090", "g6.xlarge, on demand (1x NVIDIA L4 24 GB, us-east-1)", True),
    ],
)
def test_a_gpu_is_the_priced_one_when_the_price_names_its_model(fx, device, price, is_cautioned):
    """Memory sizes and sockets do not count as the model."""
    result = fx.go()
    result["environment"]["device_name"] = device
    result["cost"]["price"]["name"] = price
    result["cost"]["basis"] = "measured_this_machine"
    assert (_view(result, "en").cost.caution is not None) is is_cautioned


def test_a_zero_by_construction_is_explained_beside_it(fx):
    """Q4 of zero under forced execution says so; a Q4 that could have failed does not."""
    view = _view(fx.functional_check_no_go())
    assert "仕組み" in view.conclusion.tiles[1].notes[-1]
    assert "保護なし" in view.evidence.guards
    view = _view(fx.go())
    assert (view.conclusion.tiles[1].notes, view.evidence.guards) == ((), "")


def test_the_dense_point_is_one_mark_when_all_layers_run_gives_the_same(fx, monkeypatch):
    """Dense and all-layers-run share a mark and a label on one place, and have one each on two places."""
    seen = []
    monkeypatch.setattr(charts, "quality_map", lambda marks, *_: seen.append(marks) or "<svg/>")
    legends = [
        [entry.text for entry in _view(result).evidence.quality_map.legend]
        for result in (fx.go(), fx.functional_check_no_go())
    ]
    labels = [[mark.label for mark in marks if mark.label] for marks in seen]
    assert "密モデル・全層実行" in labels[0]
    assert {"密モデル", "全層実行"}.isdisjoint(labels[0])
    assert {"密モデル", "全層実行", "保護なし"} <= set(labels[1])
    assert len(legends[1]) == len(legends[0]) + 1
    assert any("保護なし" in text for text in legends[0])


def test_missing_figures_are_named_as_missing_and_never_zero(fx):
    """Nothing that was not measured shows a digit."""
    figures = list(_figures(_view(fx.everything_missing())))
    missing = [figure for figure in figures if figure.is_missing]
    assert len(missing) > 30
    assert {figure.text for figure in missing} <= {"未測定", "未設定"}


def test_equal_machines_mean_no_saving_in_words(fx):
    """When the number of machines stays the same the report says that cost does not change."""
    assert "計算機の費用は変わりません" in _view(fx.functional_check_no_go()).cost.summary.text
    assert "計算機の費用は変わりません" not in _view(fx.go()).cost.summary.text


def test_deviations_and_repeated_test_openings_are_printed(fx):
    """What differs from the plan is on the page."""
    view = _view(fx.no_go(), "en")
    assert view.risks.deviations == ("limits.max_over_skip was 0.005 when the plan was registered",)
    assert "opened: 2" in view.evidence.test_note


def test_passages_without_text_show_blocks_and_say_so(fx):
    """Redacted passages keep the pattern of skipping and lose every word."""
    view = _view(fx.no_go())
    tokens = view.details.token_map.passages[0].tokens
    assert [token.text for token in tokens][:4] == ["設", "設", "用", "・"]
    assert tokens[2].word == "用語集の語"
    assert tokens[3].n_skipped == 6
    assert "表示していません" in view.details.token_map.redaction
    assert "含まない" in view.marker
    assert not any(word in str(view) for word in ("要求を", "秒数"))
    assert _view(fx.go()).details.token_map.passages[0].tokens[2].text == "Timeout"
    assert "抜粋あり" in _view(fx.go()).marker


def test_long_passages_and_many_passages_are_capped(fx):
    """The page stays small: 20 passages of 160 tokens at most, and the cut is stated."""
    result = fx.go()
    long = {"id": "x", "language": "ja", "tokens": None, "n_tokens": 400}
    long |= {"skipped_layers": [25] * 400, "critical": [False] * 400}
    result["passages"] = [long] * 30
    result["token_map"] = None
    view = _view(result).details.token_map
    assert (len(view.passages), len(view.passages[0].tokens)) == (20, 160)
    assert sum(len(passage.tokens) for passage in view.passages) == 1280
    assert view.passages[0].tokens[0].shade == 5
    assert "400" in view.passages[0].note


def test_speed_wording_follows_the_interval(fx):
    """Faster, slower and undecided are told by where the interval lies, not by the point value."""
    result = fx.go()
    row = next(row for row in result["speed"] if row["is_headline"])
    assert "速いと言えます" in _view(result).speed.summary.text
    row |= {"measured_speedup": 1.02, "low": 0.97, "high": 1.07}
    assert "差があるとは言えません" in _view(result).speed.summary.text
    row |= {"measured_speedup": 0.9, "low": 0.88, "high": 0.92}
    assert "遅くなっています" in _view(result).speed.summary.text
