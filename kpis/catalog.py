"""Every KPI in one ordered list: what it is, how it is computed, and what it means for a manager.

The report's glossary and the gate table take names and meanings from here. To add a KPI: its function, an
entry here, a `GateKind` in gate.py, a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from kpis.errors import KpiError


@dataclass(frozen=True)
class Entry:
    """One KPI. `higher_is_better` is None where neither direction is good in itself."""

    id: str
    name_ja: str
    name_en: str
    unit: str
    higher_is_better: bool | None
    formula: str
    gate: str
    """What is held against which registered limit; `info` where nothing is."""
    limits: tuple[str, ...]
    """The fields of `GateLimits` that the gate reads."""
    function: str
    """The pure function that computes it."""
    source: str
    meaning_ja: str
    meaning_en: str


CATALOG: tuple[Entry, ...] = (
    Entry(
        id="Q1",
        name_ja="品質の非劣性",
        name_en="Quality not worse",
        unit="points",
        higher_is_better=True,
        formula="(c - b) / n; 95 % lower bound: the lowest of Tango's score, the same at the effective n (n / design "
        "effect of items from one source), and the cluster bootstrap",
        gate="lower 95 % bound > -quality_margin",
        limits=("quality_margin",),
        function="kpis.paired.tango_interval",
        source="Tango 1998; Rao and Scott 1992; Efron 1987",
        meaning_ja="省略ありのモデルの正答率が、省略なしのモデルより許容幅を超えて下がっていないことを示せるか。",
        meaning_en="Can we show that the skipping model does not answer worse than the dense one by more than the "
        "agreed margin?",
    ),
    Entry(
        id="Q2",
        name_ja="回答の反転率",
        name_en="Flipped answers",
        unit="fraction",
        higher_is_better=False,
        formula="(b + c) / n and b / n; 95 % upper bounds: the highest of Clopper-Pearson, the same at the effective "
        "n, and the cluster bootstrap",
        gate="upper 95 % bounds <= max_flip_rate and max_harmful_rate",
        limits=("max_flip_rate", "max_harmful_rate"),
        function="kpis.proportions.clopper_pearson",
        source="arXiv 2407.09141; Clopper and Pearson 1934; Korn and Graubard 1998",
        meaning_ja="正解と不正解が入れ替わった質問の割合。特に、正解だったものが不正解になった割合を見る。",
        meaning_en="Share of questions that changed between right and wrong, above all from right to wrong.",
    ),
    Entry(
        id="Q3",
        name_ja="回答一致率",
        name_en="Same answers",
        unit="fraction",
        higher_is_better=True,
        formula="items with the same answer / n; lower end of the two-sided 95 % interval: the lowest of Wilson, the "
        "same at the effective n, and the cluster bootstrap",
        gate="lower 95 % bound >= min_agreement, or within the noise floor",
        limits=("min_agreement",),
        function="kpis.proportions.wilson",
        source="Wilson 1927",
        meaning_ja="二つのモデルが同じ答えを返した質問の割合。利用者が違いに気づくかどうかの目安。",
        meaning_en="Share of questions to which both models give the same answer: would users notice a change?",
    ),
    Entry(
        id="Q4",
        name_ja="重要トークンの過剰スキップ率",
        name_en="Over-skipped critical tokens",
        unit="fraction",
        higher_is_better=False,
        formula="over-skipped critical tokens / critical tokens; 95 % upper bound: the highest of Clopper-Pearson, the "
        "same at the effective number of tokens (design effect of documents), and the document bootstrap",
        gate="upper 95 % bound <= max_over_skip",
        limits=("max_over_skip",),
        function="kpis.quality_bounds.share_interval",
        source="ours; Clopper and Pearson 1934; Korn and Graubard 1998",
        meaning_ja="数字・否定・専門用語など間違えてはならない語で、計算の省略によって予測が変わった割合。",
        meaning_en="Among words that must not go wrong (numbers, negations, terms): share whose prediction changed "
        "because layers were skipped.",
    ),
    Entry(
        id="Q5",
        name_ja="省略の選択性",
        name_en="Selectivity of skipping",
        unit="ratio",
        higher_is_better=False,
        formula="skipped share on critical tokens / skipped share on other tokens",
        gate="info",
        limits=("max_selectivity",),
        function="kpis.quality.sweep_row",
        source="ours",
        meaning_ja="重要な語での省略が、そのほかの語よりどれだけ少ないか。1より小さいほど重要な語を守っている。",
        meaning_en="How much less is skipped on critical words than on others; below 1 the critical words are spared.",
    ),
    Entry(
        id="Q6",
        name_ja="必ず正解すべき質問の失敗数",
        name_en="Failed must-pass cases",
        unit="count",
        higher_is_better=False,
        formula="failures among the listed cases that the dense model passes; exact upper bound beside it",
        gate="failures <= max_must_pass_failures",
        limits=("max_must_pass_failures",),
        function="kpis.quality.confirmation",
        source="ours",
        meaning_ja="事前に「間違いは許されない」と決めた質問で、密モデルは正解したのにSkipLayerが間違えた数。",
        meaning_en="Questions registered as not allowed to fail that the dense model passes and SkipLayer fails.",
    ),
    Entry(
        id="Q7",
        name_ja="最も弱い区分の差",
        name_en="Weakest slice",
        unit="points",
        higher_is_better=True,
        formula="lower bound of (c - b) / n in the worst slice with enough items, as in Q1 with the effective n of the "
        "slice; error divided by the number of judged slices",
        gate="lower bound > -slice_margin in every slice of min_slice_n items",
        limits=("slice_margin", "min_slice_n"),
        function="kpis.quality_bounds.slices",
        source="Holm 1979, first step; bounds as Q1",
        meaning_ja="言語や質問の種類ごとに見て、最も悪化した区分でも許容幅に収まるか。平均に隠れた悪化を見つける。",
        meaning_en="Does even the language or question type that suffered most stay within its margin? Finds losses "
        "that an average hides.",
    ),
    Entry(
        id="S1",
        name_ja="実測の高速化率",
        name_en="Measured speed-up",
        unit="ratio",
        higher_is_better=True,
        formula="exp(mean of log(dense time / skip time)) over interleaved pairs; t-interval",
        gate="lower 95 % bound >= min_speedup, at least min_pairs pairs",
        limits=("min_speedup", "min_pairs"),
        function="kpis.stats.log_ratio_interval",
        source="t-interval on log ratios",
        meaning_ja="同じ機械で交互に測った処理時間の比。1.20倍なら同じ時間に2割多く処理できる。",
        meaning_en="Ratio of times measured in turn on one machine; 1.20 means a fifth more work in the same time.",
    ),
    Entry(
        id="S2",
        name_ja="高速化の変換効率",
        name_en="Conversion into time",
        unit="fraction",
        higher_is_better=True,
        formula="(G - 1) / (1 / (1 - k f) - 1)",
        gate="info",
        limits=(),
        function="kpis.routing.conversion",
        source="ours",
        meaning_ja="省略した計算量から見込める短縮のうち、実際の時間短縮になった割合。",
        meaning_en="How much of the saving that the skipped work promises really shows on the clock.",
    ),
    Entry(
        id="S3",
        name_ja="応答時間の約束",
        name_en="Response times promised",
        unit="ratio",
        higher_is_better=False,
        formula="max over TTFT and TPOT of (99th percentile / promised time); TPOT = (E2E - TTFT) / (tokens - 1)",
        gate="99th percentile / promised time <= 1, at least min_p99_samples requests, sent at the peak of the plan",
        limits=("slo_ttft_s", "slo_tpot_s", "min_p99_samples"),
        function="kpis.speed.percentiles",
        source="limits of MLPerf Inference, Llama-3.1-8B server",
        meaning_ja="100回中99回の応答が、利用者に約束した時間に収まるか。1以下なら守れている。",
        meaning_en="Do 99 of 100 responses stay within the time promised to users? At most 1 means yes.",
    ),
    Entry(
        id="S4",
        name_ja="約束を守れる処理量",
        name_en="Goodput",
        unit="per_s",
        higher_is_better=True,
        formula="requests per second of one machine within the promised times, against peak / machines",
        gate="requests/s of one machine >= peak / machines",
        limits=("slo_ttft_s", "slo_tpot_s"),
        function="kpis.goodput.goodput_per_s",
        source="as in vLLM's and AIPerf's benchmarks",
        meaning_ja="応答時間を守りながら1台で毎秒処理できる件数。混雑時の1台分の需要以上が必要。",
        meaning_en="Requests per second that one machine handles within the promised times; must cover its share of "
        "the peak.",
    ),
    Entry(
        id="S5",
        name_ja="消費電力",
        name_en="Energy",
        unit="ratio",
        higher_is_better=False,
        formula="joule / output tokens",
        gate="info",
        limits=(),
        function="kpis.energy.joule_per_token",
        source="as in vLLM's benchmark and Zeus; a meter is needed, none is read yet",
        meaning_ja="出力1トークンあたりの消費エネルギー（ジュール）。",
        meaning_en="Energy used per output token, in joule.",
    ),
    Entry(
        id="C1",
        name_ja="100万トークンあたりの費用",
        name_en="Cost per million tokens",
        unit="jpy_per_mtok",
        higher_is_better=False,
        formula="P_h 1e6 / (3600 X u) at 30 % utilisation",
        gate="info",
        limits=(),
        function="kpis.cost.jpy_per_mtok",
        source="usual sizing arithmetic",
        meaning_ja="出力100万トークンを作る費用。機械が有料時間の何割働いているか（利用率）で大きく変わる。",
        meaning_en="Cost of producing a million output tokens; depends strongly on how busy the machine is.",
    ),
    Entry(
        id="C2",
        name_ja="月額費用",
        name_en="Monthly cost",
        unit="jpy",
        higher_is_better=False,
        formula="machines x price per hour x hours; machines = ceil(peak / (Q_slo x target load))",
        gate="info",
        limits=(),
        function="kpis.cost.replicas",
        source="usual sizing steps: benchmark, machines for a latency limit at peak, cost",
        meaning_ja="混雑時の需要をまかなう台数で計算した1か月の費用。台数は整数なので、少しの高速化では下がらないことがある。",
        meaning_en="A month with as many machines as the peak needs. Machines are whole, so a small speed-up may save "
        "nothing.",
    ),
    Entry(
        id="C3",
        name_ja="月次削減の確からしさ",
        name_en="Chance of a monthly saving",
        unit="fraction",
        higher_is_better=True,
        formula="P(C2 dense - C2 skip - upkeep > 0) over seeded draws",
        gate="P(saving > 0) >= min_saving_probability; refuted below refuted_probability",
        limits=("min_saving_probability", "refuted_probability"),
        function="kpis.cost_risk.simulate",
        source="model-based, seeded draws",
        meaning_ja="維持費を引いたあとも毎月の費用が減る見込み（確率）。前提の幅を動かした試算による。",
        meaning_en="How likely the month is cheaper even after upkeep, when the assumptions vary within their ranges.",
    ),
    Entry(
        id="C4",
        name_ja="投資の回収期間",
        name_en="Payback",
        unit="months",
        higher_is_better=False,
        formula="I0 / (saving - upkeep), median of draws; or P(NPV > 0)",
        gate="months <= max_payback_months, or P(NPV > 0) >= min_npv_probability",
        limits=("max_payback_months", "min_npv_probability", "refuted_probability"),
        function="kpis.cost_risk.payback_months",
        source="model-based, seeded draws",
        meaning_ja="最初にかけた費用を、毎月の削減で取り戻すまでの月数。",
        meaning_en="Months until the monthly saving has paid back what was spent at the start.",
    ),
    Entry(
        id="C5",
        name_ja="正答1件あたりの費用",
        name_en="Cost per right answer",
        unit="jpy",
        higher_is_better=False,
        formula="monthly cost / (requests x accuracy)",
        gate="info",
        limits=(),
        function="kpis.cost.jpy_per_correct_answer",
        source="FinOps: cost per successful outcome",
        meaning_ja="正しい答え1件にかかる費用。安くても間違いが増えれば割高になる。",
        meaning_en="What one right answer costs: cheaper is no gain if more answers are wrong.",
    ),
    Entry(
        id="D1",
        name_ja="証拠の充足",
        name_en="Evidence",
        unit="ratio",
        higher_is_better=True,
        formula="min of n / required n (items, critical tokens, pairs); items: smallest n at which the exact power of "
        "Q1 reaches the registered one; target hardware, fresh prices, one opening",
        gate="n / required n >= 1; prices younger than price_warning_days; at most max_test_openings",
        limits=("planning_flip_rate", "min_pairs", "price_warning_days", "max_test_openings"),
        function="kpis.gates_business.evidence_gate",
        source="ours",
        meaning_ja="件数・測定回数・機械・価格の新しさが、判定を下すのに足りているか。1以上で充足。",
        meaning_en="Are there enough cases and runs, on the right hardware and with fresh prices, to decide? At least "
        "1 means yes.",
    ),
)

BESIDE: tuple[Entry, ...] = (
    Entry(
        id="A1",
        name_ja="生成した回答の完全一致",
        name_en="Exact match of written answers",
        unit="fraction",
        higher_is_better=True,
        formula="answers equal to the reference after normalisation / n; paired difference with bounds as "
        "kpis.graded.graded",
        gate="info",
        limits=(),
        function="kpis.answers.exact_match",
        source="SQuAD, Rajpurkar 2016",
        meaning_ja="モデル自身に書かせた回答が、正解と同じ文字列になった割合。選択式より利用者の使い方に近い。",
        meaning_en="Share of answers, written by the model itself, that equal the right one; nearer to use than "
        "multiple choice.",
    ),
    Entry(
        id="A2",
        name_ja="生成した回答の部分一致",
        name_en="Overlap of written answers",
        unit="fraction",
        higher_is_better=True,
        formula="2 P R / (P + R) over characters (ja) or words (en) shared with the reference; as A1",
        gate="info",
        limits=(),
        function="kpis.answers.char_f1",
        source="JSQuAD (JGLUE, Kurihara 2022); SQuAD, Rajpurkar 2016",
        meaning_ja="書かせた回答が正解とどれだけ重なるか。一部だけ合っている回答にも点を与える。",
        meaning_en="How much of the right answer a written one holds; partly right answers count in part.",
    ),
    Entry(
        id="A3",
        name_ja="生成した回答の一致率",
        name_en="Same written answers",
        unit="fraction",
        higher_is_better=True,
        formula="questions with the same normalised written answer of both models / n; Wilson 95 %",
        gate="info",
        limits=(),
        function="kpis.generated.written",
        source="Wilson 1927",
        meaning_ja="二つのモデルが同じ質問に同じ回答を書いた割合。",
        meaning_en="Share of questions to which both models write the same answer.",
    ),
    Entry(
        id="A4",
        name_ja="回答の自己一致",
        name_en="Self-consistency",
        unit="fraction",
        higher_is_better=True,
        formula="mean over questions of sum n_a (n_a - 1) / (k (k - 1)) over k drawn answers",
        gate="info",
        limits=(),
        function="kpis.answers.self_consistency",
        source="mean pairwise agreement, ours",
        meaning_ja="同じ質問に何度か答えさせたとき、回答どうしが一致する割合。密モデルより下がれば不安定になった。",
        meaning_en="Asked the same question several times, how often a model agrees with itself; compare with dense.",
    ),
)
"""Figures of the answers that both models write (`kpis.generated`): no gate, so no row among the gates."""

IDS: tuple[str, ...] = tuple(entry.id for entry in CATALOG)


def entry(kpi_id: str) -> Entry:
    """The catalog entry of one KPI.

    Raises:
        KpiError: when the id is unknown.
    """
    for candidate in (*CATALOG, *BESIDE):
        if candidate.id == kpi_id:
            return candidate
    raise KpiError(f"unknown KPI {kpi_id!r}; expected one of {list(IDS)}")
