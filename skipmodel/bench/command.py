"""`python -m skipmodel bench`: the arguments, and the grid run on a checkpoint folder. Loads without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipmodel.bench.config import DTYPES, PHASES, WEIGHTS, BenchConfig
from skipmodel.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    from skipmodel.bench.grid import Subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a grid can be told; `config_of` reads it back."""
    default = BenchConfig()
    parser.add_argument("--documents", type=Path, help="documents.jsonl of the ingest stage; default: random tokens")
    parser.add_argument("--level", type=float, help="time the learned routing at this level, 0 dense ... 1 all")
    parser.add_argument("--phases", type=_words, default=default.phases, help=f"of {','.join(PHASES)}")
    parser.add_argument("--batches", type=_whole, default=default.batches, help="sequences at once")
    parser.add_argument("--prompts", type=_whole, default=default.prompts, help="prompt lengths")
    parser.add_argument("--skip-rates", type=_shares, default=default.skip_rates, help="rates of random routing")
    parser.add_argument("--dtypes", type=_words, default=(), help=f"of {','.join(DTYPES)}; default: the checkpoint's")
    parser.add_argument("--group-rows", type=_whole, default=default.group_rows,
                        help="rows at once in gathered prefill, 0 for all")  # fmt: skip
    parser.add_argument("--weights", type=_words, default=default.weights, help=f"of {','.join(WEIGHTS)}")
    parser.add_argument("--pairs", type=int, default=default.n_pairs, help="interleaved pairs per cell")
    parser.add_argument("--cell-budget-s", type=float, default=default.cell_budget_s, help="seconds per cell")
    parser.add_argument("--output-tokens", type=int, default=default.output_tokens, help="decoded tokens of a run")
    parser.add_argument("--natural-tokens", type=int, default=default.natural_tokens,
                        help="longest answer of the natural-length view on real text; 0 leaves it out")  # fmt: skip
    parser.add_argument("--no-rule", action="store_true", help="leave the engagement rule out")
    parser.add_argument("--compile", action="store_true", help="time a dense model compiled by torch too")
    parser.add_argument("--calibrations", type=Path, help="folder to keep calibrations in and take them from")
    parser.add_argument("--seed", type=int, default=default.seed, help="of random tokens and masks")


def config_of(arguments: argparse.Namespace) -> BenchConfig:
    """Return the grid that the arguments ask for."""
    return BenchConfig(
        phases=arguments.phases, batches=arguments.batches, prompts=arguments.prompts,
        output_tokens=arguments.output_tokens, skip_rates=arguments.skip_rates, dtypes=arguments.dtypes,
        group_rows=arguments.group_rows, weights=arguments.weights, n_pairs=arguments.pairs,
        cell_budget_s=arguments.cell_budget_s, use_rule=not arguments.no_rule, use_compiled=arguments.compile,
        natural_tokens=arguments.natural_tokens, seed=arguments.seed,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Benchmark a checkpoint, write the document after every cell, and return a summary."""
    config = config_of(arguments)
    check_out(arguments.out)
    if arguments.threshold is not None and arguments.level is not None:
        raise ConfigError("bench: expected --threshold or --level, got both; leave one out")
    subject = checkpoint_subject(
        arguments.model, documents=arguments.documents, threshold=arguments.threshold, level=arguments.level,
        seed=config.seed,
    )  # fmt: skip
    document = run_grid(subject, config, arguments.out, calibrations=arguments.calibrations)
    return summary(document) | {"out": str(arguments.out)}


def run_grid(
    subject: Subject, config: BenchConfig, out: Path, *, calibrations: Path | None = None,
    complete: Callable[[dict[str, Any]], None] = lambda document: None, warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a grid and write its document to a file after every cell.

    Args:
        subject: What is benchmarked.
        config: The grid.
        out: File of the document.
        calibrations: Folder of calibrations; made when it is missing.
        complete: Adds to the document before it is written, such as the commit.
        warn: Told what went otherwise than asked; default: standard error.
    """
    from skipmodel.bench.document import write
    from skipmodel.bench.grid import Grid

    if calibrations is not None:
        calibrations.mkdir(parents=True, exist_ok=True)

    def save(document: dict[str, Any]) -> None:
        complete(document)
        write(document, out)

    return Grid(subject, config, save, warn or _warn, calibrations).run()


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def check_out(path: Path) -> None:
    """Refuse a file that could not be written, before hours of timing.

    Raises:
        MeasurementError: Its folder is not there.
    """
    if not path.parent.is_dir():
        raise MeasurementError(
            f"--out: expected a file in an existing folder, {path.parent.name or path.parent} is none; make it first"
        )


def checkpoint_subject(
    folder: Path, *, documents: Path | None = None, threshold: float | None = None, level: float | None = None,
    seed: int = 0, name: str | None = None,
) -> Subject:  # fmt: skip
    """Return a checkpoint folder as a subject, with the guards that are kept in it.

    Args:
        folder: SkipLayer checkpoint.
        documents: documents.jsonl, for real text of its validation split; None draws random tokens.
        threshold: Learned routing at this execute probability; or
        level: at this level of the checkpoint. Neither times random routing only.
        seed: Of the texts.
        name: Shown name; default: that of the folder.
    """
    import torch

    from skipmodel.base import default_device, load_checkpoint
    from skipmodel.bench.grid import Subject
    from skipmodel.bench.texts import DocumentTexts, RandomTexts, Texts, read_documents
    from skipmodel.gate import level_to_logit, threshold_to_logit
    from skipmodel.guards import ServingGuards
    from skipmodel.model import SkipLayerForCausalLM

    first: list[Any] = []
    model, tokenizer = load_checkpoint(folder)
    first.append(model)
    guards = ServingGuards.load(folder)
    texts: Texts = RandomTexts(len(tokenizer), seed)
    if documents is not None:
        finder = guards.finder if guards.sequences else None
        texts = DocumentTexts(read_documents(documents), tokenizer, finder, seed)
    logit = None if threshold is None else threshold_to_logit(threshold)
    if level is not None:
        logit = level_to_logit(model.config.level_logits, level)
    end_id = tokenizer.eos_token_id

    def open_model(dtype: str | None) -> Any:
        saved = first.pop() if first else None
        if saved is None or (dtype is not None and saved.dtype != getattr(torch, dtype)):
            wanted: Any = "auto" if dtype is None else getattr(torch, dtype)
            saved = SkipLayerForCausalLM.from_pretrained(folder, dtype=wanted)
        return saved.to(default_device()).eval()

    return Subject(
        name=name or folder.name, open=open_model, texts=texts, threshold_logit=logit,
        facts={"threshold": threshold, "level": level}, finder=guards.finder if guards.sequences else None,
        end_ids=() if end_id is None else (end_id,), vocabulary=len(tokenizer),
    )  # fmt: skip


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a document that fit one line per cell."""
    names = ("phase", "routing", "batch", "prompt", "dtype", "weights", "group_rows", "skip_rate", "ceiling", "speedup",
             "low", "high", "conversion", "engaged", "speedup_with_rule", "reason")  # fmt: skip
    rivals = [{name: row[name] for name in ("name", "batch", "dtype", "ratio", "reason")} for row in document["rivals"]]
    return {"schema_version": document["schema_version"], "interrupted": document["interrupted"],
            "rows": [{name: row[name] for name in names} for row in document["rows"]], "rivals": rivals}  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _whole(text: str) -> tuple[int, ...]:
    return _numbers(text, int)


def _shares(text: str) -> tuple[float, ...]:
    return floats(text) if text else ()


def floats(text: str) -> tuple[float, ...]:
    """Return the numbers of an option's value, which stand between commas."""
    return _numbers(text, float)


def _numbers(text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        parts: Sequence[Any] = [kind(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None
    return tuple(parts)
