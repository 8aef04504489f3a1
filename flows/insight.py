"""The stage that looks inside: which tokens need which layers, who skips what, and what the guards cost.

Everything is on validation text and holds classes, counts and rates, never a text; token strings appear only with
`report.include_samples`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.progress import ProgressHook
from flows.stages import MODEL_CODE
from flows.store import StageResult, read_json, write_json
from flows.workbench import Workbench

if TYPE_CHECKING:
    from skipmodel.data import Blocks
    from skipmodel.evaluate import BlockScores

N_PASSAGES = 3
FILES = ("importance.json", "who_skips.json", "passages.json", "guard_costs.json")


def insight(bench: Workbench, point: dict[str, Any]) -> StageResult:
    """SkipLayer model and operating point -> importance experiment, skip statistics, token x layer maps."""
    config = bench.settings.model
    with_text = bench.settings.report.include_samples

    def compute(folder: Path, hook: ProgressHook) -> None:
        if config.insight.blocks:
            write_json(folder / "importance.json", _importance(bench, hook))
        blocks, scores = _scores(bench, point)
        statistics, passages = _who_skips(bench, blocks, scores, with_text=with_text)
        write_json(folder / "passages.json", {"passages": passages})
        write_json(folder / "who_skips.json", statistics)
        write_json(folder / "guard_costs.json", _guards(bench, point, blocks, scores, folder))

    inputs = {
        "skip": bench.key("skip-tune"),
        "ingest": bench.key("ingest"),
        "threshold_logit": point["threshold_logit"],
        "insight": dataclasses.asdict(config.insight),
        "blocks": [config.sweep.validation_tokens, config.sweep.block_tokens],
        "guards": [config.skip.force_critical, config.skip.class_margins],
        "with_text": with_text,
        "seed": config.seed,
    }
    names = ("importance", "token_stats", "evaluate", "guards", "guard_costs")
    code = [*MODEL_CODE, "skipmodel/engine", *(f"skipmodel/{name}.py" for name in names), "flows/insight.py"]
    return bench.do("insight", "look which tokens need which layers", inputs, code, compute)


def _importance(bench: Workbench, hook: ProgressHook) -> dict[str, Any]:
    from skipmodel.data import sample
    from skipmodel.importance import importance

    config = bench.settings.model.insight
    blocks = sample(bench.blocks("validation", config.block_tokens), config.blocks * config.block_tokens,
                    bench.settings.model.seed + 4, full_only=True)  # fmt: skip
    report = importance(bench.model, blocks, n_blocks=config.blocks, n_pairs=config.pairs, n_draws=config.draws,
                        seed=bench.settings.model.seed, progress=hook)  # fmt: skip
    return report.to_json()


def _scores(bench: Workbench, point: dict[str, Any]) -> tuple[Blocks, BlockScores]:
    """Score validation text at the operating point."""
    from skipmodel.data import sample
    from skipmodel.evaluate import score_blocks

    config, logit = bench.settings.model, point["threshold_logit"]
    skip, sweep = config.skip, config.sweep
    blocks = sample(bench.blocks("validation", sweep.block_tokens), sweep.validation_tokens, config.seed)
    routing = None if logit is None else bench.engine.routing(logit)
    scores = score_blocks(bench.engine, blocks, routing, force_critical=skip.force_critical, margins=skip.class_margins)
    return blocks, scores


def _who_skips(
    bench: Workbench, blocks: Blocks, scores: BlockScores, *, with_text: bool
) -> tuple[dict[str, Any], list[Any]]:
    from skipmodel.guards import free_tokens
    from skipmodel.token_stats import frequency_classes, passage_map, token_classes, token_counts, token_statistics

    config, engine = bench.settings.model, bench.engine
    force_critical = config.skip.force_critical
    guarded_NT = ~free_tokens(blocks, engine.force_first_positions, force_critical=force_critical)
    n_vocabulary = bench.model.config.text_config.vocab_size
    counts = token_counts(bench.blocks("train", config.block_tokens), n_vocabulary)
    classes = [token_classes(bench.tokenizer, n_vocabulary), frequency_classes(counts)]
    decode = (lambda token: str(bench.tokenizer.decode([token]))) if with_text else None
    statistics = token_statistics(
        blocks, scores.execute_mask_LNT, classes=classes, unit_work=engine.work.unit_share, n_layers=engine.n_layers,
        guarded_NT=guarded_NT, decode=decode, seed=config.seed,
    )  # fmt: skip
    chosen = range(min(N_PASSAGES, len(blocks)))
    passages = [passage_map(blocks, scores.execute_mask_LNT, row, classes=classes, decode=decode) for row in chosen]
    return statistics.to_json(), passages


def _guards(
    bench: Workbench, point: dict[str, Any], blocks: Blocks, scores: BlockScores, folder: Path
) -> dict[str, Any]:
    """Measure what each guard costs, and write the guards of the operating point for generation, with its band."""
    from skipmodel.guard_costs import guard_costs
    from skipmodel.guards import WINDOW_TOKENS, ServingGuards, SkipBand, term_sequences

    engine, logit, skip = bench.engine, point["threshold_logit"], bench.settings.model.skip
    if logit is None:
        return {"rows": [], "band": None}
    rows = guard_costs(engine, blocks, engine.routing(logit), force_critical=skip.force_critical,
                       margins=skip.class_margins)  # fmt: skip
    band, found = None, None
    if len(blocks) > 1:  # one half of the text sets the band, the other tells how many requests leave it
        one, other = (range(start, len(blocks), 2) for start in (0, 1))
        band = SkipBand.calibrate(
            scores.execute_mask_LNT[:, list(one)], blocks.take(one), engine.routed_units,
            window_tokens=min(WINDOW_TOKENS, int(blocks.take(one).n_real_N.max())),
        )  # fmt: skip
        outside = band.outside(scores.execute_mask_LNT[:, list(other)], blocks.take(other), engine.routed_units)
        found = dataclasses.asdict(band) | {"share_outside": outside}
    sequences = term_sequences(bench.matcher.surfaces, bench.tokenizer) if skip.force_critical else ()
    ServingGuards(sequences, band).save(folder)
    return {"rows": [dataclasses.asdict(row) for row in rows], "band": found}


def metrics(bench: Workbench) -> dict[str, float | None]:
    """Return the numbers of the finished stage that go to MLflow."""
    folder = bench.folder("insight")
    found: dict[str, float | None] = {}
    if (folder / "importance.json").exists():
        report = read_json(folder / "importance.json")
        found |= {f"correlation_{name}": value for name, value in report["correlations"].items()}
    for row in read_json(folder / "who_skips.json")["by_class"]:
        found[f"skip_rate_{row['axis']}_{row['name'].replace(' ', '_')}"] = row["skip_rate"]
    costs = read_json(folder / "guard_costs.json")
    for row in costs["rows"]:
        found[f"guard_cost_{row['lifted'].replace(': ', '_').replace(' ', '_')}"] = row["skip_rate_cost"]
    if costs["band"] is not None:
        found["fallback_share"] = costs["band"]["share_outside"]
    return found


def files(bench: Workbench) -> list[Path]:
    """Return the files of the finished stage, for MLflow."""
    return [path for name in FILES if (path := bench.folder("insight") / name).exists()]
