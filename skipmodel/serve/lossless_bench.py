"""`python -m skipmodel lossless`: what drafting and verifying gains on this machine, with acceptance and break-even.

For one request at a time: greedy answers, dense and lossless in turn, at fixed numbers of drafted tokens and with the
number adapting. Beside the measured speed-up stands what acceptance it would have taken to break even at the measured
times, so that a value below 1 says how far away the gain is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.lanes import LanePass
from skipmodel.engine.rows import Row, RowPass, Slot, SlotCache
from skipmodel.errors import MeasurementError
from skipmodel.serve.lossless import Draft, make_draft
from skipmodel.serve.sampling import Sampler, verify_greedy


@dataclass
class Timed:
    """One answer: its tokens, its seconds, and the parts of the seconds spent drafting and verifying."""

    tokens: list[int]
    seconds: float
    draft_s: float = 0.0
    verify_s: float = 0.0
    n_passes: int = 0
    n_drafted: int = 0
    n_accepted: int = 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a checkpoint; return one row per number of drafted tokens.

    Raises:
        MeasurementError: A lossless answer differs from the dense one.
    """
    from skipmodel.base import default_device, load_checkpoint
    from skipmodel.bench.texts import DocumentTexts, RandomTexts, read_documents
    from skipmodel.gate import threshold_to_logit

    model, tokenizer = load_checkpoint(arguments.model)
    engine = Engine(model.to(default_device()))
    texts = (RandomTexts(len(engine.weights.embedding)) if arguments.documents is None
             else DocumentTexts(read_documents(arguments.documents), tokenizer))  # fmt: skip
    prompts = [batch.ids_BT[0].tolist() for batch in texts.batches(1, arguments.prompt_tokens, arguments.prompts)]
    logit = threshold_to_logit(arguments.threshold)
    rows = measure(engine, prompts, logit, arguments.drafts, arguments.tokens, arguments.batching)
    return {"batching": arguments.batching, "threshold": arguments.threshold, "n_prompts": len(prompts), "rows": rows}


def measure(
    engine: Engine, prompts: Sequence[Sequence[int]], threshold_logit: float, sizes: Sequence[int], n_tokens: int,
    batching: str = "lanes",
) -> list[dict[str, Any]]:  # fmt: skip
    """Time dense and lossless answers in turn; one row per number of drafted tokens, 0 for adapting.

    Args:
        engine: Of the model.
        prompts: Token ids.
        threshold_logit: Of the draft.
        sizes: Numbers of drafted tokens; adapting is added.
        n_tokens: Length of the answers.
        batching: lanes or rows.

    Raises:
        MeasurementError: A lossless answer differs from the dense one.
    """
    passes = LanePass(engine) if batching == "lanes" else RowPass(engine)
    single = LanePass(engine)
    cache = SlotCache(engine, 1, max(map(len, prompts)) + n_tokens + 1)
    routing = Routing(threshold_logit, engine.force_first_positions)
    arms = [*sizes, 0]
    dense: list[Timed] = []
    lossless: dict[int, list[Timed]] = {size: [] for size in arms}
    for number, prompt in enumerate([prompts[0], *prompts]):  # the first turn warms up
        expected = _answer(passes, cache, prompt, n_tokens, routing, None).tokens
        # the rival is the fastest dense decoding there is for one request, however the passes are made
        timed: dict[int | None, Timed] = {None: _answer(single, cache, prompt, n_tokens, routing, None)}
        for turn in range(len(arms)):
            size = arms[(number + turn) % len(arms)]
            timed[size] = _answer(passes, cache, prompt, n_tokens, routing, size)
            if timed[size].tokens != expected:
                raise MeasurementError(f"lossless: expected the dense answer to prompt {number}, got another one")
        if number:
            dense.append(timed[None])
            for size in arms:
                lossless[size].append(timed[size])
    return [_row(size, dense, lossless[size], n_tokens) for size in arms]


def _answer(
    passes: LanePass | RowPass, cache: SlotCache, prompt: Sequence[int], n_tokens: int, routing: Routing,
    size: int | None,
) -> Timed:  # fmt: skip
    """Write one answer behind a prompt, densely when `size` is None; only writing is timed."""
    engine, slot = passes.engine, cache.slots[0]
    slot.rewind(0)
    out = engine.hidden(torch.tensor([list(prompt)], device=engine.device), None, cache=slot)
    timed = Timed([int(engine.logits(out.hidden_BTD[0, -1:])[0].argmax())], 0.0)
    draft = Draft(most=size or 8, size=size or 2)
    start = time.perf_counter()
    while len(timed.tokens) < n_tokens:
        began = time.perf_counter()
        if size is not None:
            make_draft(engine, slot, timed.tokens[-1], routing, Sampler(0.0), draft, n_tokens - len(timed.tokens) - 1)
        middle = time.perf_counter()
        _verify(passes, cache, slot, timed, draft)
        if size:
            draft.size = size
        timed.draft_s += middle - began
        timed.verify_s += time.perf_counter() - middle
    timed.seconds = time.perf_counter() - start
    timed.n_passes, timed.n_drafted, timed.n_accepted = draft.n_passes, draft.n_drafted, draft.n_accepted
    return timed


def _verify(passes: LanePass | RowPass, cache: SlotCache, slot: Slot, timed: Timed, draft: Draft) -> None:
    rows = [Row(slot, token) for token in (timed.tokens[-1], *draft.tokens)]
    tokens = verify_greedy(draft.tokens, passes.run(rows, cache).logits)
    slot.rewind(slot.length - len(draft.tokens) + len(tokens) - 1)
    draft.settle(len(tokens) - 1)
    timed.tokens += tokens


def _row(size: int, dense: list[Timed], lossless: list[Timed], n_tokens: int) -> dict[str, Any]:
    drafted = sum(one.n_drafted for one in lossless)
    passes = sum(one.n_passes for one in lossless)
    dense_s = statistics.median(one.seconds for one in dense) / (n_tokens - 1)
    draft_s = sum(one.draft_s for one in lossless) / max(1, drafted)
    verify_s = sum(one.verify_s for one in lossless) / passes
    ratios = [d.seconds / s.seconds for d, s in zip(dense, lossless, strict=True)]
    cost = (drafted / passes * draft_s + verify_s) / dense_s
    return {
        "draft_tokens": size or "adapts",
        "acceptance": sum(one.n_accepted for one in lossless) / max(1, drafted),
        "tokens_per_pass": sum(len(one.tokens) - 1 for one in lossless) / passes,
        "dense_tpot_s": dense_s,
        "draft_s": draft_s,
        "verify_s": verify_s,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "break_even_tokens_per_pass": cost,
        "break_even_acceptance": break_even_acceptance(drafted / passes, cost),
    }


def break_even_acceptance(n_drafted: float, cost: float) -> float | None:
    """Return the share of drafted tokens that must be right for a speed-up of 1; None where all right is too few.

    **Formula**: a with (1 - a^(k + 1)) / (1 - a) = (k * t_draft + t_verify) / t_dense; k drafted tokens.
    **Source**: expected tokens per pass of speculative decoding, arXiv 2211.17192.

    Args:
        n_drafted: k, drafted tokens per pass.
        cost: Right-hand side, in dense steps.
    """
    if cost > n_drafted + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        expected = n_drafted + 1 if middle == 1.0 else (1 - middle ** (n_drafted + 1)) / (1 - middle)
        low, high = (middle, high) if expected < cost else (low, middle)
    return high
