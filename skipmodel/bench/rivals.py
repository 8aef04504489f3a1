"""What a buyer could run instead of our dense loop: `generate()` of transformers, plain and compiled by torch.

The wrapped base model runs with its routing switched off, in the dtype of the engine. Only the decode steps behind the
first token are timed, on both sides in turn, so that the ratio is one of loops and kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from skipmodel.bench.devices import free_memory
from skipmodel.bench.pairs import Run, interleave
from skipmodel.bench.statistics import log_ratio_interval
from skipmodel.engine.calibration import synchronise
from skipmodel.engine.masked import AnyEngine

GENERATE, COMPILED = "generate", "torch_compile"
FIRST_LINE = 200


class _Clock(BaseStreamer):
    """Notes when each token arrives; `generate` hands over the prompt first."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def put(self, value: Tensor) -> None:
        self.marks.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to close."""


def generate_step_s(model: Any, ids_BT: Tensor, n_steps: int, **options: Any) -> float:
    """Return seconds per decode step of `generate()` of the wrapped base, routing off, for a fixed length."""
    clock = _Clock()
    with torch.inference_mode(), model.routing("dense"):
        model.lm.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=n_steps + 1, min_new_tokens=n_steps + 1,
            do_sample=False, num_beams=1, pad_token_id=0, streamer=clock, **options,
        )  # fmt: skip
    first, last = clock.marks[1], clock.marks[-1]  # marks[0] is the prompt
    return (last - first) / (len(clock.marks) - 2)


def own_step_s(engine: AnyEngine, ids_BT: Tensor, n_steps: int, cache: Any) -> float:
    """Return seconds per dense decode step of our own loop, choosing tokens greedily as `generate()` does."""
    cache.rewind(0)
    out = engine.hidden(ids_BT, cache=cache)
    token = engine.logits(out.hidden_BTD[:, -1]).argmax(-1, keepdim=True)
    synchronise(engine)
    start = time.perf_counter()
    for _ in range(n_steps):
        if len(ids_BT) == 1:
            logits, _ = engine.step(token, cache)
        else:
            logits = engine.logits(engine.hidden(token, cache=cache).hidden_BTD[:, -1])
        token = logits.argmax(-1, keepdim=True)
        token.tolist()  # the streamer of the rival has its tokens on the CPU too
    return (time.perf_counter() - start) / n_steps


def compare(
    model: Any, engine: AnyEngine, ids_BT: Tensor, n_steps: int, *, n_pairs: int, budget_s: float,
    with_compiled: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one row per rival: our dense decode beside theirs, and the ratio; a reason where it could not be timed.

    Args:
        model: The routed model that the engine was made of.
        engine: Our own loop.
        ids_BT: Prompts.
        n_steps: Decoded tokens.
        n_pairs: Pairs at most.
        budget_s: Seconds for each rival. [s]
        with_compiled: Whether to compile; that takes a minute or more and needs a C++ compiler on a CPU.
    """
    ids_BT = ids_BT.to(engine.device)
    rows = [_row(model, engine, ids_BT, n_steps, n_pairs, budget_s, GENERATE, {})]
    if not with_compiled:
        return [*rows, _left_out(engine, ids_BT, n_steps, COMPILED, "not asked for (--compile)")]
    try:
        with _compiled(model.lm):
            static = {"cache_implementation": "static"}
            rows.append(_row(model, engine, ids_BT, n_steps, n_pairs, budget_s, COMPILED, static))
    except KeyboardInterrupt:
        raise
    except Exception as error:  # compilers fail in many ways, none of them is a defect of ours
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:FIRST_LINE]
        rows.append(_left_out(engine, ids_BT, n_steps, COMPILED, reason))
        free_memory(engine.device)
    return rows


@contextmanager
def _compiled(lm: Any) -> Iterator[None]:
    """Replace the forward pass by its compiled form inside the block."""
    lm.forward = torch.compile(lm.forward)
    try:
        yield
    finally:
        del lm.forward  # the one of the class shows again
        torch.compiler.reset()


def _base(engine: AnyEngine, ids_BT: Tensor, n_steps: int, name: str) -> dict[str, Any]:
    return {"name": name, "phase": "decode", "batch": ids_BT.shape[0], "prompt": ids_BT.shape[1],
            "output_tokens": n_steps, "dtype": str(engine.dtype).removeprefix("torch.")}  # fmt: skip


def _left_out(engine: AnyEngine, ids_BT: Tensor, n_steps: int, name: str, reason: str) -> dict[str, Any]:
    return _base(engine, ids_BT, n_steps, name) | {
        "rival_s": [], "own_s": [], "n_pairs": 0, "ratio": None, "low": None, "high": None, "reason": reason,
    }  # fmt: skip


def _row(
    model: Any, engine: AnyEngine, ids_BT: Tensor, n_steps: int, n_pairs: int, budget_s: float, name: str,
    options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    cache = engine.new_cache(len(ids_BT), ids_BT.shape[1] + n_steps)
    arms: list[Callable[[int], Run]] = [
        lambda _: Run(generate_step_s(model, ids_BT, n_steps, **options)),
        lambda _: Run(own_step_s(engine, ids_BT, n_steps, cache)),
    ]
    for arm in arms:
        arm(0)
    rival, own = interleave(arms, 1, n_pairs, budget_s)
    rival_s, own_s = [run.seconds for run in rival], [run.seconds for run in own]
    ratio, low, high = log_ratio_interval(rival_s, own_s)
    return _base(engine, ids_BT, n_steps, name) | {
        "rival_s": rival_s, "own_s": own_s, "n_pairs": len(own_s), "ratio": ratio, "low": low, "high": high,
        "reason": None,
    }  # fmt: skip
