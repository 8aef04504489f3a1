"""Scoring held-out text and question items, token by token, with the engine.

Everything is teacher-forced and paired: the same tokens are scored densely and with skipping, and what comes
out is one record per document or item, never an aggregate.

Legend: N blocks, B blocks in a batch, T tokens in a block, L routed units (layers by default), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skipmodel.data import Blocks, Document, tokenize
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.guards import class_margins
from skipmodel.work import Work

OVER_SKIP_NATS = 0.5
_ROWS_PER_CHUNK = 256  # vocabulary-sized rows held at once

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BlockScores:
    """Per position t of each block: loss on token t+1, predicted token, and which layers ran.

    Attributes:
        nll_NT: Negative log-likelihood in nats, (N, T-1).
        top1_NT: Most likely next token, (N, T-1).
        execute_mask_LNT: True = the unit ran, (L, N, T); all True when dense.
    """

    nll_NT: Tensor
    top1_NT: Tensor
    execute_mask_LNT: Tensor


def score_blocks(
    engine: AnyEngine,
    blocks: Blocks,
    routing: Routing | None,
    *,
    force_critical: bool,
    margins: Mapping[str, float] | None = None,
    batch_blocks: int = 8,
    progress: Progress = lambda done, total: None,
) -> BlockScores:
    """Score blocks densely (`routing` None) or with skipping.

    Args:
        engine: Executes the model.
        blocks: What to score. Padding stands on the right, where causal attention never reads it.
        routing: Thresholds, or masks (L, N, T) given from outside for controls.
        force_critical: Critical tokens execute every unit.
        margins: Added to the router logits per class of token (`skipmodel.guards`).
        batch_blocks: Blocks per pass.
        progress: Called with blocks done and total.
    """
    nll, top1, masks = [], [], []
    for start in range(0, len(blocks), batch_blocks):
        batch = blocks.take(range(start, min(start + batch_blocks, len(blocks))))
        part = routing
        if routing is not None and routing.override_mask_LBT is not None:
            part = replace(
                routing, override_mask_LBT=routing.override_mask_LBT[:, start : start + batch_blocks].to(engine.device)
            )
        ids_BT = batch.ids_NT.to(engine.device)
        forced = batch.critical_NT.to(engine.device) if force_critical else None
        margin_BT = None if routing is None else class_margins(batch, margins or {})
        if margin_BT is not None:
            margin_BT = margin_BT.to(engine.device)
        out = engine.hidden(ids_BT, part, forced_BT=forced, margin_BT=margin_BT)
        batch_nll, batch_top1 = _next_token(engine, out.hidden_BTD[:, :-1], ids_BT[:, 1:])
        nll.append(batch_nll.cpu())
        top1.append(batch_top1.cpu())
        ran = out.execute_mask_LBT
        if ran is None:
            ran = torch.ones(engine.n_units, *batch.ids_NT.shape, dtype=torch.bool)
        masks.append(ran.cpu())
        progress(min(start + batch_blocks, len(blocks)), len(blocks))
    return BlockScores(torch.cat(nll), torch.cat(top1), torch.cat(masks, 1))


@torch.inference_mode()
def _next_token(engine: AnyEngine, hidden_BTD: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and most likely token per position, without holding all vocabulary rows at once."""
    rows, targets = hidden_BTD.flatten(0, 1), target_BT.flatten()
    nll, top1 = [], []
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        logits = engine.logits(rows[start : start + _ROWS_PER_CHUNK]).float()
        chosen = logits.gather(1, targets[start : start + _ROWS_PER_CHUNK, None]).squeeze(1)
        nll.append(logits.logsumexp(-1) - chosen)
        top1.append(logits.argmax(-1))
    return torch.cat(nll).view(target_BT.shape), torch.cat(top1).view(target_BT.shape)


def skip_rate_per_unit(blocks: Blocks, scores: BlockScores) -> list[float]:
    """Share of real tokens that skipped each unit, all units in order; 0 where none can skip."""
    real_NT = blocks.real_NT
    return [float((~mask_NT)[real_NT].float().mean()) for mask_NT in scores.execute_mask_LNT]


def skip_rate_by_kind(blocks: Blocks, scores: BlockScores, work: Work) -> list[dict[str, Any]]:
    """Skip rate of all layer executions per critical class of token, with the number of tokens."""
    share_L = torch.tensor(work.unit_share) / work.n_layers
    skipped_NT = torch.einsum("lnt,l->nt", (~scores.execute_mask_LNT).float(), share_L)
    rows = []
    for number, kind in enumerate(blocks.kinds):
        of_kind = blocks.real_NT & (blocks.kind_NT == number)
        if bool(of_kind.any()):
            rows.append({"class": kind, "skip_rate": float(skipped_NT[of_kind].mean()), "n": int(of_kind.sum())})
    return rows


def pair_documents(
    blocks: Blocks, dense: BlockScores, skip: BlockScores, routed_units: Sequence[int]
) -> list[dict[str, Any]]:
    """Return one record per document that pairs dense and skip.

    A critical token is over-skipped when it skipped at least one layer and its output changed: another most
    likely next token than dense, or a loss more than 0.5 nats higher. `*_executed` and `*_positions` count
    (token, routed layer) pairs.
    """
    real_NT = blocks.real_NT
    scored_NT = real_NT[:, 1:]
    critical_NT = blocks.critical_NT[:, :-1] & scored_NT
    ran_NT = skip.execute_mask_LNT[list(routed_units)]
    skipped_any_NT = (~ran_NT).any(0)[:, :-1]
    same_NT = dense.top1_NT == skip.top1_NT
    worse_NT = skip.nll_NT - dense.nll_NT > OVER_SKIP_NATS
    over_NT = critical_NT & skipped_any_NT & (~same_NT | worse_NT)
    n_ran_NT = ran_NT.sum(0)
    columns = {
        "n_tokens": scored_NT.sum(1),
        "n_bytes": (blocks.bytes_NT[:, 1:] * scored_NT).sum(1),
        "nll_dense": (dense.nll_NT * scored_NT).double().sum(1),
        "nll_skip": (skip.nll_NT * scored_NT).double().sum(1),
        "n_same_top1": (same_NT & scored_NT).sum(1),
        "n_critical": critical_NT.sum(1),
        "n_over_skipped": over_NT.sum(1),
        "n_critical_executed": (n_ran_NT * (blocks.critical_NT & real_NT)).sum(1),
        "n_critical_positions": (blocks.critical_NT & real_NT).sum(1) * len(routed_units),
        "n_other_executed": (n_ran_NT * (~blocks.critical_NT & real_NT)).sum(1),
        "n_other_positions": (~blocks.critical_NT & real_NT).sum(1) * len(routed_units),
    }
    records: dict[str, dict[str, Any]] = {}
    for row, name in enumerate(blocks.document_ids):
        record = records.setdefault(name, {"document_id": name} | dict.fromkeys(columns, 0))
        for column, values in columns.items():
            record[column] += values[row].item()
    return list(records.values())


@dataclass(frozen=True)
class Item:
    """A question whose answer is one of several continuations, each with its critical spans."""

    item_id: str
    question: Document
    choices: tuple[Document, ...]
    answer: int


def score_items(
    engine: AnyEngine,
    tokenizer: Any,
    items: Sequence[Item],
    routing: Routing | None,
    *,
    kinds: Sequence[str],
    force_critical: bool,
    margins: Mapping[str, float] | None = None,
    batch_items: int = 8,
    progress: Progress = lambda done, total: None,
) -> list[int]:
    """Return the chosen answer of each item: the continuation with the highest log-likelihood per byte.

    Question and choices share one sequence: every choice sees the question and itself, at the positions it
    would have alone. That scores four choices for the price of about one, with the same result.
    """
    packed = [_pack(item, tokenizer, kinds) for item in items]
    margin_of_kind = torch.tensor([(margins or {}).get(kind, 0.0) for kind in kinds])
    chosen: list[int] = [0] * len(items)
    order = sorted(range(len(items)), key=lambda i: len(packed[i].ids))
    for start in range(0, len(order), batch_items):
        group = order[start : start + batch_items]
        for index, choice in zip(
            group,
            _score_group(engine, [packed[i] for i in group], routing, force_critical, margin_of_kind),
            strict=True,
        ):
            chosen[index] = choice
        progress(min(start + batch_items, len(order)), len(order))
    return chosen


@dataclass(frozen=True)
class _Packed:
    ids: list[int]
    segment: list[int]
    """0 for the question, 1.. for the choices."""
    position: list[int]
    kind: list[int]
    n_bytes: list[int]
    """Bytes of each choice."""


def _pack(item: Item, tokenizer: Any, kinds: Sequence[str]) -> _Packed:
    parts = tokenize([item.question, *item.choices], tokenizer, kinds)
    ids = list(parts[0].prefix_ids)
    segment, position, kind = [0] * len(ids), list(range(len(ids))), [0] * len(ids)
    n_question = len(ids) + len(parts[0].ids)
    for number, part in enumerate(parts):
        ids += part.ids
        segment += [number] * len(part.ids)
        first = len(ids) - len(part.ids) if number == 0 else n_question
        position += range(first, first + len(part.ids))
        kind += part.kind_ids
    return _Packed(ids, segment, position, kind, [max(1, len(c.text.encode())) for c in item.choices])


@torch.inference_mode()
def _score_group(
    engine: AnyEngine, group: Sequence[_Packed], routing: Routing | None, force_critical: bool, margin_of_kind: Tensor
) -> list[int]:
    width = max(len(p.ids) for p in group)

    def padded(rows: list[list[Any]], fill: Any) -> Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=engine.device)

    ids_BT = padded([p.ids for p in group], 0)
    segment_BT = padded([p.segment for p in group], -1)
    position_BT = padded([p.position for p in group], 0)
    kind_BT = padded([p.kind for p in group], 0)
    margin_BT = (
        margin_of_kind.to(engine.device)[kind_BT] if routing is not None and bool(margin_of_kind.any()) else None
    )
    at = torch.arange(width, device=engine.device)
    same = (segment_BT[:, None, :] == 0) | (segment_BT[:, None, :] == segment_BT[:, :, None])
    allowed_BTS = same & (at[None, :] <= at[:, None])
    out = engine.hidden(
        ids_BT, routing, position_BT=position_BT, allowed_BTS=allowed_BTS,
        forced_BT=kind_BT > 0 if force_critical else None, margin_BT=margin_BT,
    )  # fmt: skip
    chosen = []
    for row, packed in enumerate(group):
        segment = torch.tensor(packed.segment)
        last_question = int((segment == 0).nonzero().max())
        scores = []
        for number, n_bytes in enumerate(packed.n_bytes, start=1):
            target_at = (segment == number).nonzero().squeeze(1)
            source_at = torch.cat([torch.tensor([last_question]), target_at[:-1]])
            logits = engine.logits(out.hidden_BTD[row, source_at]).float()
            log_prob = logits.log_softmax(-1).gather(1, ids_BT[row, target_at, None])
            scores.append(float(log_prob.sum()) / n_bytes)
        chosen.append(max(range(len(scores)), key=scores.__getitem__))
    return chosen
