"""The stage that looks inside: which tokens need which layers, and who skips what at the operating point.

Everything is on validation text and holds classes, counts and rates, never a text; token strings appear only with
`report.include_samples`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from flows.progress import ProgressHook
from flows.stages import MODEL_CODE
from flows.store import StageResult, read_json, write_json
from flows.workbench import Workbench

N_PASSAGES = 3
FILES = ("importance.json", "who_skips.json", "passages.json")


def insight(bench: Workbench, point: dict[str, Any]) -> StageResult:
    """SkipLayer model and operating point -> importance experiment, skip statistics, token x layer maps."""
    config = bench.settings.model
    with_text = bench.settings.report.include_samples

    def compute(folder: Path, hook: ProgressHook) -> None:
        if config.insight.blocks:
            write_json(folder / "importance.json", _importance(bench, hook))
        statistics, passages = _who_skips(bench, point, with_text=with_text)
        write_json(folder / "passages.json", {"passages": passages})
        write_json(folder / "who_skips.json", statistics)

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
    names = ("importance", "token_stats", "evaluate", "guards")
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


def _who_skips(bench: Workbench, point: dict[str, Any], *, with_text: bool) -> tuple[dict[str, Any], list[Any]]:
    from skipmodel.data import sample
    from skipmodel.evaluate import score_blocks
    from skipmodel.token_stats import frequency_classes, passage_map, token_classes, token_counts, token_statistics

    config, engine = bench.settings.model, bench.engine
    skip, sweep = config.skip, config.sweep
    blocks = sample(bench.blocks("validation", sweep.block_tokens), sweep.validation_tokens, config.seed)
    logit = point["threshold_logit"]
    scores = score_blocks(engine, blocks, None if logit is None else engine.routing(logit),
                          force_critical=skip.force_critical, margins=skip.class_margins)  # fmt: skip
    guarded_NT = blocks.critical_NT.clone() if skip.force_critical else blocks.real_NT & False
    guarded_NT[:, : engine.force_first_positions] = True
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


def metrics(bench: Workbench) -> dict[str, float | None]:
    """Return the numbers of the finished stage that go to MLflow."""
    folder = bench.folder("insight")
    found: dict[str, float | None] = {}
    if (folder / "importance.json").exists():
        report = read_json(folder / "importance.json")
        found |= {f"correlation_{name}": value for name, value in report["correlations"].items()}
    for row in read_json(folder / "who_skips.json")["by_class"]:
        found[f"skip_rate_{row['axis']}_{row['name'].replace(' ', '_')}"] = row["skip_rate"]
    return found


def files(bench: Workbench) -> list[Path]:
    """Return the files of the finished stage, for MLflow."""
    return [path for name in FILES if (path := bench.folder("insight") / name).exists()]
