"""The natural-length view: whole requests, each arm writing until it ends the text by itself.

Beside the cells of fixed length this shows what a user waits for: a model that skips may write shorter or longer
answers, which a time per token does not tell.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipmodel.bench.loads import Batch
from skipmodel.bench.pairs import Run, interleave
from skipmodel.bench.statistics import log_ratio_interval, percentiles
from skipmodel.engine.calibration import synchronise
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.guards import TokenSequences


@dataclass(frozen=True)
class Written:
    """One answered request.

    Attributes:
        ids: Tokens that were written, end of text included.
        ttft_s: Seconds to the first. [s]
        request_s: Seconds to the last. [s]
        ended: Whether the model ended the text; False where the limit did.
    """

    ids: tuple[int, ...]
    ttft_s: float
    request_s: float
    ended: bool


def write(
    engine: AnyEngine,
    prompt: Batch,
    routing: Routing | None,
    *,
    end_ids: Collection[int],
    max_tokens: int,
    finder: TokenSequences | None = None,
    cache: Any = None,
) -> Written:
    """Continue one prompt greedily until an end token or `max_tokens`; prompt and answer under the same routing.

    Args:
        engine: Executes the model.
        prompt: Token ids (1, T), with the guards of the prompt.
        routing: None runs densely.
        end_ids: Tokens that end a text.
        max_tokens: Limit.
        finder: Finds guarded sequences in the answer as it is written.
        cache: Memory to use again; made when absent.
    """
    ids_BT = prompt.ids_BT.to(engine.device)
    cache = engine.new_cache(1, ids_BT.shape[1] + max_tokens) if cache is None else cache
    cache.rewind(0)
    forced_BT = None if routing is None or prompt.forced_BT is None else prompt.forced_BT.to(engine.device)
    node = 0
    for token_id in ids_BT[0].tolist() if finder is not None else ():
        node = finder.step(node, token_id)  # type: ignore[union-attr]
    start = time.perf_counter()
    out = engine.hidden(ids_BT, routing, cache=cache, forced_BT=forced_BT)
    made = [_best(engine, engine.logits(out.hidden_BTD[:, -1]))]
    ttft_s = time.perf_counter() - start
    while made[-1] not in end_ids and len(made) < max_tokens:
        guarded = False
        if finder is not None:
            node = finder.step(node, made[-1])
            guarded = finder.holds(node)
        token = torch.tensor([[made[-1]]], device=engine.device)
        logits, _ = engine.step(token, cache, routing, forced=guarded)
        made.append(_best(engine, logits))
    return Written(tuple(made), ttft_s, time.perf_counter() - start, made[-1] in end_ids)


def _best(engine: AnyEngine, logits_1V: Tensor) -> int:
    synchronise(engine)
    return int(logits_1V.argmax(-1))


def natural_view(
    engine: AnyEngine,
    prompts: Sequence[Batch],
    routing: Routing,
    *,
    end_ids: Collection[int],
    max_tokens: int,
    budget_s: float = float("inf"),
    finder: TokenSequences | None = None,
) -> dict[str, Any]:
    """Answer every prompt densely and with skipping, in turn, and return lengths and seconds of both arms.

    Args as `write`; one pair per prompt, fewer where the budget ends, two at least.
    """
    written: tuple[list[Written], list[Written]] = ([], [])
    capacity = max(prompt.ids_BT.shape[1] for prompt in prompts) + max_tokens

    def arm(which: int) -> Any:
        def run(index: int) -> Run:
            answer = write(engine, prompts[index], routing if which else None, end_ids=end_ids, max_tokens=max_tokens,
                           finder=finder, cache=engine.new_cache(1, capacity))  # fmt: skip
            written[which].append(answer)
            return Run(answer.request_s)

        return run

    arms = [arm(0), arm(1)]
    for run in arms:
        run(0)
    for answers in written:
        answers.clear()
    interleave(arms, len(prompts), len(prompts), budget_s)
    dense, skip = written
    ratio, low, high = log_ratio_interval([a.request_s for a in dense], [a.request_s for a in skip])
    return {
        "prompt": int(prompts[0].ids_BT.shape[1]), "max_tokens": max_tokens, "n_requests": len(dense),
        "n_same_text": sum(a.ids == b.ids for a, b in zip(dense, skip, strict=True)),
        "speedup": ratio, "low": low, "high": high,
        "arms": {name: _arm(answers) for name, answers in (("dense", dense), ("skip", skip))},
    }  # fmt: skip


def _arm(answers: Sequence[Written]) -> dict[str, Any]:
    n = len(answers)
    return {
        "n_tokens": [len(answer.ids) for answer in answers],
        "n_ended": sum(answer.ended for answer in answers),
        "request_s": [answer.request_s for answer in answers],
        "ttft": percentiles([answer.ttft_s for answer in answers], n),
        "tpot": percentiles([(a.request_s - a.ttft_s) / (len(a.ids) - 1) for a in answers if len(a.ids) > 1], n),
        "e2e": percentiles([answer.request_s for answer in answers], n),
    }
