"""`python -m skipmodel train | bench | generate`: the model on a box without Prefect and MLflow.

    train     --config run.json --documents documents.jsonl --out DIR
    bench     --model DIR [--threshold 0.5] [--pairs 6]
    generate  --model DIR --prompt TEXT [--threshold 0.5] [--tokens 64]

`run.json` holds the model part of the settings (`skipmodel.config.to_json`); `documents.jsonl` is what the ingest
stage writes. The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipmodel.config import ModelConfig, from_json
from skipmodel.errors import CheckpointError, SkipModelError
from skipmodel.memory import keep_freed_memory

EXIT_CODE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a person can put right end in one message and exit code 2."""
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    try:
        outcome = arguments.command(arguments)
    except SkipModelError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODE
    sys.stdout.write(json.dumps(outcome, ensure_ascii=False) + "\n")
    return 0


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Base model and documents -> tuned dense model and SkipLayer checkpoint in one folder."""
    from skipmodel.base import default_device, load_base
    from skipmodel.calibrate import calibrate
    from skipmodel.data import cut, sample, tokenize
    from skipmodel.model import SkipLayerForCausalLM
    from skipmodel.train import dense_tune, skip_tune

    config = from_json(_read(arguments.config)) if arguments.config else ModelConfig()
    documents, kinds = _documents(arguments.documents)
    base: Any
    base, tokenizer, info = load_base(config.base)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    blocks = cut(tokenize(documents, tokenizer, kinds), config.block_tokens, pad_id or 0, kinds)
    blocks = sample(blocks, int(blocks.n_real_N.sum()), config.seed, full_only=True)
    dense: Any
    dense, dense_log = dense_tune(base.to(default_device()), blocks, config.dense_tune, config.seed, _progress("dense"))
    model = SkipLayerForCausalLM.from_base(dense, config.skip)
    wanted = max(1, config.calibrate.n_tokens // config.block_tokens)
    report = calibrate(
        model, blocks.take(range(min(wanted, len(blocks)))), config.calibrate,
        max_layer_damage_nats=config.skip.max_layer_damage_nats,
        target_skip_rate=config.skip_tune.target_skip_rate, progress=_progress("calibrate"),
    )  # fmt: skip
    skip_log = skip_tune(model, blocks, config.skip_tune, config.seed, force_critical=config.skip.force_critical,
                         progress=_progress("skip"))  # fmt: skip
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    return {"base": info, "calibration": dataclasses.asdict(report), "dense": dense_log.rows, "skip": skip_log.rows}


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time decode and prefill of a checkpoint, dense against its own routing, in interleaved pairs."""
    import torch

    from skipmodel.engine.executor import Engine
    from skipmodel.gate import threshold_to_logit
    from skipmodel.measure import time_decode, time_prefill

    model, tokenizer = _load(arguments.model)
    engine = Engine(model)
    routing = engine.routing(threshold_to_logit(arguments.threshold))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(tokenizer), (1, 256), generator=generator)
    rows = [
        time_prefill(engine, [ids], arguments.pairs, routing=routing),
        time_decode(engine, [ids[:, :96]], 64, arguments.pairs, routing=routing),
    ]
    return {"schema_version": 1, "threshold": arguments.threshold, "rows": [dataclasses.asdict(row) for row in rows]}


def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continue a prompt greedily with the branch engine; tells how many layers each token skipped."""
    import torch

    from skipmodel.engine.executor import Engine
    from skipmodel.gate import threshold_to_logit

    model, tokenizer = _load(arguments.model)
    engine = Engine(model)
    routing = engine.routing(threshold_to_logit(arguments.threshold))
    ids = tokenizer(arguments.prompt, return_tensors="pt")["input_ids"].to(engine.device)
    cache = engine.new_cache(1, ids.shape[1] + arguments.tokens)
    started = time.perf_counter()
    out = engine.hidden(ids, routing, cache=cache)
    token = engine.logits(out.hidden_BTD[:, -1]).argmax(-1, keepdim=True)
    made, skipped = [int(token)], [0]
    while len(made) < arguments.tokens and made[-1] != tokenizer.eos_token_id:
        logits, n_skipped = engine.step(token, cache, routing)
        token = torch.argmax(logits, -1, keepdim=True)
        made.append(int(token))
        skipped.append(n_skipped)
    seconds = time.perf_counter() - started
    return {"text": tokenizer.decode(made, skip_special_tokens=True), "n_tokens": len(made),
            "skipped_layers": skipped[1:], "measured_s": seconds}  # fmt: skip


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    from skipmodel.base import default_device
    from skipmodel.model import SkipLayerForCausalLM

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"--model: expected a SkipLayer checkpoint folder, found no config.json in {folder}; a run keeps its "
            "checkpoint in the folder runs/store/skip-tune-*/skiplayer"
        )
    model: Any = SkipLayerForCausalLM.from_pretrained(folder, dtype="auto")
    return model.to(default_device()).eval(), AutoTokenizer.from_pretrained(folder)


def _documents(path: Path) -> tuple[list[Any], list[str]]:
    from skipmodel.data import OTHER, Document, Span

    documents, kinds = [], {OTHER: 0}
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        if row["split"] == "train":
            spans = tuple(Span(span["start"], span["end"], span["kind"]) for span in row["spans"])
            kinds |= {span.kind: 0 for span in spans}
            documents.append(Document(row["document_id"], row["text"], spans, row["language"]))
    return documents, list(kinds)


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _progress(what: str) -> Any:
    return lambda done, total: sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skipmodel", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, command in (("train", train), ("bench", bench), ("generate", generate)):
        sub = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(command=command)
        if name == "train":
            sub.add_argument("--config", type=Path, help="model settings as JSON; without it the defaults")
            sub.add_argument("--documents", type=Path, required=True, help="documents.jsonl of the ingest stage")
            sub.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
            continue
        sub.add_argument("--model", type=Path, required=True, help="folder of a SkipLayer checkpoint")
        sub.add_argument("--threshold", type=float, default=0.5, help="0 executes everything")
        if name == "bench":
            sub.add_argument("--pairs", type=int, default=6, help="interleaved pairs")
        else:
            sub.add_argument("--prompt", required=True)
            sub.add_argument("--tokens", type=int, default=64)
    return parser


if __name__ == "__main__":
    sys.exit(main())
