"""`python -m skipmodel COMMAND`: the model on a box without Prefect and MLflow.

    train     --config run.json --documents documents.jsonl --out DIR
    bench     --model DIR [--out bench.json] [--threshold 0.5 | --level 0.3] [--documents documents.jsonl] ...
    generate  --model DIR --prompt TEXT [--threshold 0.5 | --level 0.3] [--tokens 64] [--guards DIR | --no-guards]
    scratch   --documents documents.jsonl --out result.json [--layers 8] [--density 0.5] [--steps 800] [--seeds 3] ...
    serve     --model DIR [--threshold 0.5 | --level 0.3] [--port 8000] [--slots 4] [--demo] ...
    lossless  --model DIR [--documents documents.jsonl] [--threshold 0.5] [--drafts 1,2,4] ...
    loadtest  --url http://127.0.0.1:8000 --out load.json [--rates 0.5,1,2] [--duration-s 60] ...

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

from skipmodel.bench.command import add_arguments as add_bench_arguments
from skipmodel.config import ModelConfig
from skipmodel.config_json import from_json
from skipmodel.errors import DataError, SkipModelError
from skipmodel.memory import keep_freed_memory
from skipmodel.scratch_config import ScratchConfig, setting_help
from skipmodel.serve.command import add_arguments as add_serve_arguments
from skipmodel.serve.loadtest_command import add_arguments as add_load_arguments
from skipmodel.serve.lossless_options import add_arguments as add_lossless_arguments

EXIT_CODE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a person can put right end in one message and exit code 2."""
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    try:
        outcome = arguments.command(arguments)
    except SkipModelError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was written before is kept\n")
        return EXIT_INTERRUPTED
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
    _set_levels(model, tokenizer, config, arguments.documents, pad_id or 0)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    return {"base": info, "calibration": dataclasses.asdict(report), "dense": dense_log.rows, "skip": skip_log.rows}


def _set_levels(model: Any, tokenizer: Any, config: ModelConfig, path: Path, pad_id: int) -> None:
    """Read the levels off validation documents; without any there are none, and thresholds are all there is."""
    from skipmodel.data import cut, sample, tokenize
    from skipmodel.levels import set_levels

    documents, kinds = _documents(path, "validation")
    if documents:
        blocks = cut(tokenize(documents, tokenizer, kinds), config.sweep.block_tokens, pad_id, kinds)
        set_levels(model, sample(blocks, config.calibrate.level_tokens, config.seed + 1), config)


def scratch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a deeper SkipLayer net and its dense rivals from scratch, as in the paper, and compare them."""
    from skipmodel.scratch import run_scratch

    config = ScratchConfig(**{name: getattr(arguments, name) for name in setting_help()})
    if not arguments.out.parent.is_dir():
        raise DataError(f"--out: expected a file in an existing folder, {arguments.out.parent} is none; make it")
    training, kinds = _documents(arguments.documents)
    validation, more_kinds = _documents(arguments.documents, "validation")
    started = time.perf_counter()
    result = run_scratch(training, validation, list(dict.fromkeys(kinds + more_kinds)), config,
                         lambda what, done, total: _progress(what)(done, total))  # fmt: skip
    result["measured_s"] = time.perf_counter() - started
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    summary: dict[str, Any] = result["summary"]
    return summary


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time decode and prefill of a checkpoint, dense against skip, in interleaved pairs; Ctrl-C keeps what is done."""
    from skipmodel.bench.command import run

    return run(arguments)


def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continue a prompt greedily; tells how many units each token skipped, and where guards stepped in.

    Listed token sequences of the checkpoint execute every unit as they are written; once the skip rate leaves the
    band of held-out text, the rest is written densely.
    """
    import torch

    from skipmodel.engine.masked import open_engine
    from skipmodel.gate import level_to_logit, threshold_to_logit
    from skipmodel.guards import Fallback, ServingGuards

    model, tokenizer = _load(arguments.model)
    engine = open_engine(model)
    logit = threshold_to_logit(arguments.threshold)
    if arguments.level is not None:
        logit = level_to_logit(model.config.level_logits, arguments.level)
    routing = engine.routing(logit)
    guards = ServingGuards() if arguments.no_guards else ServingGuards.load(arguments.guards or arguments.model)
    ids = tokenizer(arguments.prompt, return_tensors="pt")["input_ids"].to(engine.device)
    cache = engine.new_cache(1, ids.shape[1] + arguments.tokens)
    started = time.perf_counter()
    finder, node = guards.finder, 0
    forced = []
    for token_id in ids[0].tolist():
        node = finder.step(node, token_id)
        forced.append(finder.holds(node))
    out = engine.hidden(ids, routing, cache=cache, forced_BT=torch.tensor([forced], device=engine.device))
    token = engine.logits(out.hidden_BTD[:, -1]).argmax(-1, keepdim=True)
    fallback = None if guards.band is None else Fallback(guards.band)
    made, skipped, guarded, dense_from = [int(token)], [], [], None
    while len(made) < arguments.tokens and made[-1] != tokenizer.eos_token_id:
        node = finder.step(node, made[-1])
        guarded.append(finder.holds(node))
        logits, n_skipped = engine.step(token, cache, None if dense_from is not None else routing, forced=guarded[-1])
        skipped.append(n_skipped)
        if fallback is not None and fallback.update(n_skipped / len(engine.routed_units)) and dense_from is None:
            dense_from = len(skipped)
        token = torch.argmax(logits, -1, keepdim=True)
        made.append(int(token))
    seconds = time.perf_counter() - started
    return {"text": tokenizer.decode(made, skip_special_tokens=True), "n_tokens": len(made), "skipped_units": skipped,
            "guarded": guarded, "dense_from": dense_from, "measured_s": seconds}  # fmt: skip


def serve(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve a checkpoint over HTTP, OpenAI-compatible, until Ctrl-C; with --demo a page to try it."""
    from skipmodel.serve.command import config_of, run

    config = config_of(arguments, has_demo=arguments.demo)
    return run(arguments.model, config, threshold=arguments.threshold, level=arguments.level)


def loadtest(arguments: argparse.Namespace) -> dict[str, Any]:
    """Send requests to a running server at rising rates, dense and skip, and write the records of the load test."""
    from skipmodel.serve.loadtest_command import run

    return run(arguments)


def lossless(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time lossless answers against dense ones: acceptance, speed-up and break-even per number of drafted tokens."""
    from skipmodel.serve.lossless_bench import run

    return run(arguments)


def _load(folder: Path) -> tuple[Any, Any]:
    from skipmodel.base import default_device, load_checkpoint

    model, tokenizer = load_checkpoint(folder)
    return model.to(default_device()), tokenizer


def _documents(path: Path, split: str = "train") -> tuple[list[Any], list[str]]:
    from skipmodel.data import OTHER, Document, Span

    documents, kinds = [], {OTHER: 0}
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        if row["split"] == split:
            spans = tuple(Span(span["start"], span["end"], span["kind"]) for span in row["spans"])
            kinds |= {span.kind: 0 for span in spans}
            documents.append(Document(row["document_id"], row["text"], spans, row["language"]))
    return documents, list(kinds)


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _progress(what: str) -> Any:
    return lambda done, total: sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))


COMMANDS = {
    "train": train, "bench": bench, "generate": generate, "scratch": scratch, "serve": serve, "loadtest": loadtest,
    "lossless": lossless,
}  # fmt: skip


ADDED_BY_THE_ROOM = {"loadtest": add_load_arguments, "lossless": add_lossless_arguments}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skipmodel", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(command=command)
        if name == "train":
            sub.add_argument("--config", type=Path, help="model settings as JSON; without it the defaults")
            sub.add_argument("--documents", type=Path, required=True, help="documents.jsonl of the ingest stage")
            sub.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
            continue
        if name in ADDED_BY_THE_ROOM:
            ADDED_BY_THE_ROOM[name](sub)
            continue
        if name == "scratch":
            sub.add_argument("--documents", type=Path, required=True, help="documents.jsonl of the ingest stage")
            sub.add_argument("--out", type=Path, required=True, help="file of the result, JSON")
            for setting, (default, meaning) in setting_help().items():
                sub.add_argument(f"--{setting.replace('_', '-')}", type=type(default), default=default,
                                 help=f"{meaning} (default {default})")  # fmt: skip
            continue
        sub.add_argument("--model", type=Path, required=True, help="folder of a SkipLayer checkpoint")
        if name == "serve":
            add_serve_arguments(sub)
            sub.add_argument("--demo", action="store_true", help="serve the demo page at /demo too")
        elif name == "bench":
            sub.add_argument("--threshold", type=float, help="time the learned routing at this threshold")
            sub.add_argument("--out", type=Path, default=Path("bench.json"), help="file of the document, JSON")
            add_bench_arguments(sub)
        else:
            sub.add_argument("--threshold", type=float, default=0.5, help="0 executes everything")
            sub.add_argument("--prompt", required=True)
            sub.add_argument("--tokens", type=int, default=64)
            sub.add_argument("--level", type=float, help="0 dense ... 1 all that may skip; instead of --threshold")
            sub.add_argument("--guards", type=Path, help="folder of guards.json; without it that of the checkpoint")
            sub.add_argument("--no-guards", action="store_true", help="leave out the guards kept with the checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main())
