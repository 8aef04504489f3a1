"""Importance: how much each token needs each unit, measured and estimated, and which tokens are critical.

A skipped unit is replaced by its skip path: change(l, t) = skipped(l, t) - out(l, t). The distribution made at
position t is that of token t+1. Everything is in nats; KL is that of the dense model to the one that skips.

    damage        KL at t when all tokens skip unit l                                    one forward per unit
    token damage  KL when token t alone skips unit l: at t (own), from t on (total)      one row of a forward per pair
    score         |<g, change(l, t)>|, g = dLoss/d out(l, t) on the text                 one forward, one backward
    estimate      mean over draws of <g, change(l, t)>^2 / 2, Loss on drawn tokens       one backward per draw

The damage map shows what a skip costs where it happens, other tokens' skips included. Token damage singles out one
token and so sees what later tokens lose by it; it costs too much for all tokens and checks the others on a sample.

Legend: L routed units, N blocks, B rows of a batch, T tokens in a block, S sampled tokens, P positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from skipmodel.data import Blocks
from skipmodel.errors import ConfigError, DataError
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import normalise
from skipmodel.token_stats import spearman

SCHEMA_VERSION = 1
TARGET_CORRELATION = 0.5
"""Rank correlation from which an estimate may stand for the damage; reported, not enforced."""

Tick = Callable[[], None]


@dataclass(frozen=True)
class TokenDamage:
    """Damage where a single token skips a single unit, for a sample of tokens and every routed unit.

    Attributes:
        tokens_S2: Block and position of each token.
        own_LS: KL at the token's own position, which predicts the next token. [nats]
        total_LS: KL summed over the token's position and all later ones of the block. [nats]
    """

    tokens_S2: Tensor
    own_LS: Tensor
    total_LS: Tensor


@dataclass(frozen=True)
class CriticalSet:
    """Tokens that matter, and the two positions of each: the one that holds it and the one before, that predicts it.

    Only the holder is known when text is generated; the predictor can be protected by training alone.

    Attributes:
        by_span_NT: The token lies in a glossary or pattern span: what a customer is promised.
        by_damage_NT: Skipping hurts the prediction of this token most: what the model shows.
        holds_NT, predicts_NT: Positions that hold or predict a token of either kind.
    """

    by_span_NT: Tensor
    by_damage_NT: Tensor
    holds_NT: Tensor
    predicts_NT: Tensor


@dataclass(frozen=True)
class ImportanceReport:
    """What the importance experiment found: maps for further use, and numbers in `to_json`."""

    units: list[int]
    block_indices: list[int]
    """Routed units, and blocks of those given: the first two axes of the maps."""
    n_draws: int
    damage_LNT: Tensor
    score_LNT: Tensor
    estimate_LNT: Tensor | None
    """Maps as above, NaN where a position does not count. [nats]"""
    tokens: TokenDamage
    critical: CriticalSet

    def _maps(self) -> dict[str, Tensor]:
        with_draws = {} if self.estimate_LNT is None else {"estimate": self.estimate_LNT}
        return {"damage": self.damage_LNT, "score": self.score_LNT, **with_draws}

    def correlations(self, place: int | None = None) -> dict[str, float | None]:
        """Return rank correlations of one unit, by its place in `units`, or of all: every map against every damage.

        `score_damage` is the score against the damage map, `score_token_total` and `score_token_own` against token
        damage on its sample; so for `estimate`, and for `damage` against token damage. None where undefined.
        """
        at = slice(None) if place is None else slice(place, place + 1)
        blocks_S, positions_S = self.tokens.tokens_S2.unbind(1)
        counts_LNT = self.damage_LNT[at].isfinite()
        found = {}
        for name, map_LNT in self._maps().items():
            if name != "damage":
                found[f"{name}_damage"] = spearman(map_LNT[at][counts_LNT], self.damage_LNT[at][counts_LNT])
            sample_LS = map_LNT[at][:, blocks_S, positions_S]
            found[f"{name}_token_total"] = spearman(sample_LS.flatten(), self.tokens.total_LS[at].flatten())
            found[f"{name}_token_own"] = spearman(sample_LS.flatten(), self.tokens.own_LS[at].flatten())
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: no text, no token ids, no document names, no value of a single token."""
        rows = [
            {f"{name}_nats": float(map_LNT[place].nanmean()) for name, map_LNT in self._maps().items()}
            | {"unit": unit, "correlations": self.correlations(place)}
            for place, unit in enumerate(self.units)
        ]
        overall, span_NT, damage_NT = self.correlations(), self.critical.by_span_NT, self.critical.by_damage_NT
        both = int((span_NT & damage_NT).sum())
        return {
            "schema_version": SCHEMA_VERSION,
            "n_blocks": len(self.block_indices),
            "n_positions": int(self.damage_LNT[0].isfinite().sum()),
            "n_pairs": self.tokens.own_LS.numel(),
            "n_draws": self.n_draws,
            "correlations": overall,
            "target_correlation": TARGET_CORRELATION,
            "meets_target": {name: None if c is None else c >= TARGET_CORRELATION for name, c in overall.items()},
            "units": rows,
            "n_critical": {"by_span": int(span_NT.sum()), "by_damage": int(damage_NT.sum()), "both": both},
        }


def importance(
    model: SkipLayerForCausalLM,
    blocks: Blocks,
    *,
    n_blocks: int = 8,
    n_pairs: int = 400,
    n_draws: int = 4,
    batch_blocks: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportanceReport:
    """Measure damage, estimate it by backward passes, and name the critical tokens.

    Args:
        model: Calibrated, so that its skip paths are those that will serve; it is not changed.
        blocks: Held-out text in short blocks; `n_blocks` of them, evenly spread, are used.
        n_blocks: Budget of blocks for the maps.
        n_pairs: Budget of (token, unit) pairs for token damage; at least 2 tokens are drawn. 0 leaves it out.
        n_draws: Draws of next tokens, a backward pass each, for the estimate. 0 leaves it out.
        batch_blocks: Blocks in one pass, whose dense logits (batch_blocks * T * V) are held.
        seed: Seed of sample and draws.
        progress: Called with passes done and total.

    Raises:
        ConfigError: The model has no routed unit, or a budget is out of range.
        DataError: No position counts.
    """
    units = list(model.config.routed_units)
    if not units:
        raise ConfigError("importance: expected a model with routed units, got none; raise max_layer_damage_nats")
    if min(n_blocks, batch_blocks) < 1 or min(n_pairs, n_draws) < 0:
        got = f"{n_blocks}, {batch_blocks}, {n_pairs}, {n_draws}"
        raise ConfigError(f"importance: expected n_blocks, batch_blocks >= 1 and n_pairs, n_draws >= 0, got {got}")
    n_used = min(n_blocks, len(blocks))
    indices = [index * len(blocks) // n_used for index in range(n_used)]
    blocks = blocks.take(indices)
    n_tokens = max(2, n_pairs // len(units)) if n_pairs else 0
    tokens_S2 = draw_tokens(scored_positions(model, blocks), n_tokens, seed)
    n_passes = -(-n_used // batch_blocks) * (len(units) + 1 + n_draws) + len(tokens_S2[:, 0].unique()) * len(units)
    done = itertools.count(1)

    def tick() -> None:
        progress(next(done), n_passes)

    damage_LNT = skip_damage(model, blocks, batch_blocks, tick)
    tokens = token_skip_damage(model, blocks, tokens_S2, tick)
    change_LNT, estimate_LNT = gradient_scores(model, blocks, n_draws, seed, batch_blocks, tick)
    maps = (damage_LNT, change_LNT.abs(), estimate_LNT)
    return ImportanceReport(units, indices, n_draws, *maps, tokens, critical_set(blocks, damage_LNT))


def scored_positions(model: SkipLayerForCausalLM, blocks: Blocks) -> Tensor:
    """Return which positions count, (N, T): those that may skip and whose next token is there to be predicted.

    Raises:
        DataError: There is none.
    """
    first = model.config.force_first_positions
    scored_NT = pad(blocks.real_NT[:, 1:], (0, 1))
    scored_NT[:, :first] = False
    if not bool(scored_NT.any()):
        raise DataError(
            f"importance: expected a block of more than {first + 1} tokens, got at most {int(blocks.n_real_N.max())}; "
            "use longer blocks or lower model.skip.force_first_positions"
        )
    return scored_NT


def draw_tokens(scored_NT: Tensor, n_tokens: int, seed: int) -> Tensor:
    """Draw tokens (block, position) that count, (S, 2), sorted; about 8 from one block, so that they share passes."""
    generator = torch.Generator().manual_seed(seed)
    usable = scored_NT.any(1).nonzero()[:, 0]
    chosen = usable[torch.randperm(len(usable), generator=generator)[: -(-n_tokens // 8)]]
    at_S2 = (scored_NT & torch.isin(torch.arange(len(scored_NT)), chosen)[:, None]).nonzero()
    return at_S2[torch.randperm(len(at_S2), generator=generator)[:n_tokens].sort().values]


def skip_damage(
    model: SkipLayerForCausalLM, blocks: Blocks, batch_blocks: int = 4, tick: Tick = lambda: None
) -> Tensor:
    """Return the damage map: KL to the dense model at every position when all tokens skip one unit, for each.

    The first positions execute, as they always do (`force_first_positions`): skipping them too would show how much
    everything leans on the first token. (L, N, T), NaN where a position does not count. [nats] `tick` follows a pass.
    """
    units, scored_NT = model.config.routed_units, scored_positions(model, blocks)
    damage_LNT = torch.full((len(units), *scored_NT.shape), torch.nan)
    for start in range(0, len(blocks), batch_blocks):
        rows = slice(start, start + batch_blocks)
        dense = _DensePass(model, blocks.ids_NT[rows])
        skips_BT = torch.ones_like(scored_NT[rows])
        skips_BT[:, : model.config.force_first_positions] = False
        for place, unit in enumerate(units):
            damage_LNT[place, rows] = dense.damage(unit, skips_BT)
            tick()
    return damage_LNT.masked_fill(~scored_NT, torch.nan)


def token_skip_damage(
    model: SkipLayerForCausalLM, blocks: Blocks, tokens_S2: Tensor, tick: Tick = lambda: None
) -> TokenDamage:
    """Measure the damage when a single token skips a single unit, for tokens as from `draw_tokens`.

    Each row of a pass is a copy of the same block in which another token skips. Rows do not see each other, so this
    is what one pass per pair would give. `tick` is called after every pass.
    """
    scored_NT = scored_positions(model, blocks)
    own_LS, total_LS = torch.zeros(2, len(model.config.routed_units), len(tokens_S2))
    time_T = torch.arange(scored_NT.shape[1])
    for block in tokens_S2[:, 0].unique().tolist():
        here_S = tokens_S2[:, 0] == block
        at_B1 = tokens_S2[here_S, 1:]
        dense = _DensePass(model, blocks.ids_NT[block : block + 1])
        for place, unit in enumerate(model.config.routed_units):
            kl_BT = dense.damage(unit, time_T == at_B1) * scored_NT[block]
            own_LS[place, here_S] = kl_BT.gather(1, at_B1)[:, 0]
            total_LS[place, here_S] = (kl_BT * (time_T >= at_B1)).sum(1)  # causal: earlier ones cannot have changed
            tick()
    return TokenDamage(tokens_S2, own_LS, total_LS)


class _DensePass:
    """Dense logits of a few blocks, against which passes over the same blocks with skips are held."""

    def __init__(self, model: SkipLayerForCausalLM, ids_BT: Tensor) -> None:
        self.model, self.ids_BT = model, ids_BT.to(model.device)
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}
        # a whole layer that projects K/V changes nothing before itself, so only later layers run again
        self.is_replayed = model.config.unit == "layer" and model.config.kv == "project"

        def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self.seen[module.skip_index] = _ends(args, kwargs, output)

        hooks = [unit.register_forward_hook(keep, with_kwargs=True) for _, unit in model.routed if self.is_replayed]
        with torch.no_grad():
            self.logits_BTV = _logits(model, self.ids_BT, hooks, mode="dense")

    @torch.no_grad()
    def damage(self, unit: int, skips_BT: Tensor) -> Tensor:
        """Return the KL when the marked tokens skip this unit, (B, T), on the CPU; one block may serve all rows."""
        units, ids_BT, skips_BT = self.model.units, self.ids_BT.expand_as(skips_BT), skips_BT.to(self.ids_BT.device)
        if self.is_replayed:
            input_BTD, executed_BTD = (seen.expand(*ids_BT.shape, -1) for seen in self.seen[unit])
            mix = units[unit].register_forward_hook(
                lambda module, args, output: torch.where(skips_BT[..., None], output, executed_BTD)
            )
            start = {"replay_layer": unit, "replay_hidden_BTD": input_BTD}
            skipped_BTV = _logits(self.model, ids_BT, [mix], mode="replay", **start)
        else:
            mask_LBT = torch.ones(len(units), *ids_BT.shape, dtype=torch.bool, device=ids_BT.device)
            mask_LBT[unit] = ~skips_BT
            skipped_BTV = _logits(self.model, ids_BT, [], mode="hard", override_mask_LBT=mask_LBT)
        dense_BTV = self.logits_BTV.expand_as(skipped_BTV)
        return torch.stack([_kl(dense, skipped) for dense, skipped in zip(dense_BTV, skipped_BTV, strict=True)]).cpu()


def gradient_scores(
    model: SkipLayerForCausalLM, blocks: Blocks, n_draws: int = 0, seed: int = 0, batch_blocks: int = 4,
    tick: Tick = lambda: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Estimate for every token and unit at once what happens when that token alone skips that unit.

    **Formula**: loss change <g, change(l, t)>, the first order of the summed cross-entropy on the text; expected
    damage E <g', change(l, t)>^2 / 2, the second order of the KL summed over positions, g' for next tokens drawn from
    the model itself, so that the covariance of g' is the Fisher matrix.

    **Source**: after first-order pruning (Molchanov et al., arXiv 1611.06440) and Fisher pruning (Theis et al., arXiv
    1801.05787), with the update that a skip leaves out in place of a feature map. Both hold for small updates; neither
    sees what later tokens lose in the unit itself under K/V policy `drop`.

    Args:
        model: Calibrated; may be frozen. No parameter gets a gradient.
        blocks: Text.
        n_draws: Draws for the expected damage, one backward pass each.
        seed: Seed of the draws.
        batch_blocks: Blocks per pass.
        tick: Called after every backward pass.

    Returns:
        Loss change, signed, and expected damage (None without draws), (L, N, T); NaN as in the damage map. [nats]
    """
    scored_NT = scored_positions(model, blocks)
    generator = torch.Generator(model.device).manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start in range(0, len(blocks), batch_blocks):
        rows = slice(start, start + batch_blocks)
        ids_BT, next_is_real_BT = blocks.ids_NT[rows].to(model.device), blocks.real_NT[rows, 1:].to(model.device)
        logits_PV, outputs, changes = _dense_graph(model, ids_BT, next_is_real_BT)
        damage_LBT = torch.zeros(len(outputs), *ids_BT.shape, device=model.device)
        prob_PV = logits_PV.detach().softmax(-1)
        targets = [torch.multinomial(prob_PV, 1, generator=generator)[:, 0] for _ in range(n_draws)]
        for draw, next_P in enumerate([*targets, ids_BT[:, 1:][next_is_real_BT]]):
            loss = cross_entropy(logits_PV, next_P, reduction="sum")
            gradients = torch.autograd.grad(loss, outputs, retain_graph=draw < n_draws)
            product_LBT = torch.stack([(g.float() * c).sum(-1) for g, c in zip(gradients, changes, strict=True)])
            if draw < n_draws:
                damage_LBT += product_LBT.square() / (2 * n_draws)
            tick()
        parts[0].append(product_LBT.cpu())
        parts[1].append(damage_LBT.cpu())
    change_LNT, damage_LNT = (torch.cat(part, 1).masked_fill(~scored_NT, torch.nan) for part in parts)
    return change_LNT, damage_LNT if n_draws else None


def _dense_graph(
    model: SkipLayerForCausalLM, ids_BT: Tensor, next_is_real_BT: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One dense forward: logits that predict a token, the routed units' outputs in its graph, and their changes."""
    outputs: list[Tensor] = []
    changes: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        input_BTD, out_BTD = _ends(args, kwargs, output)
        with torch.no_grad():
            skipped_BTD = module.skip_path(normalise(input_BTD))
            if module.skip_adds_residual:
                skipped_BTD = input_BTD + skipped_BTD
            changes.append((skipped_BTD - out_BTD).float())
        outputs.append(out_BTD)

    hooks = [unit.register_forward_hook(keep, with_kwargs=True) for _, unit in model.routed]
    # the graph of a frozen model has to begin somewhere
    hooks.append(model.get_input_embeddings().register_forward_hook(lambda m, a, out: out.detach().requires_grad_()))
    with torch.enable_grad():
        logits_PV = _logits(model, ids_BT, hooks, mode="dense")[:, :-1][next_is_real_BT].float()
    return logits_PV, outputs, changes


def critical_set(blocks: Blocks, damage_LNT: Tensor, share: float = 0.1) -> CriticalSet:
    """Unite the tokens of critical spans with those whose prediction skipping hurts most.

    Positions are ranked by the mean of the damage map over units; `share` of those that count are hurt most.
    """
    damage_NT = damage_LNT.mean(0)
    ranked = damage_NT.nan_to_num(nan=-1.0).flatten().argsort(descending=True, stable=True)
    worst = ranked[: round(share * int(damage_NT.isfinite().sum()))]
    by_damage_NT = torch.zeros_like(blocks.real_NT)
    by_damage_NT.view(-1)[worst + 1] = True  # where a position counts, its next token is in the same block
    by_span_NT = blocks.critical_NT & blocks.real_NT
    holds_NT = by_span_NT | by_damage_NT
    return CriticalSet(by_span_NT, by_damage_NT, holds_NT, predicts_NT=pad(holds_NT[:, 1:], (0, 1)))


def _logits(model: SkipLayerForCausalLM, ids_BT: Tensor, hooks: list[Any], **state: Any) -> Tensor:
    """One forward pass without dropout and gradient checkpointing; the hooks are removed afterwards."""
    was_training = model.training
    model.eval()
    try:
        with model.routing(**state):
            logits_BTV: Tensor = model(ids_BT, use_cache=False).logits
        return logits_BTV
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def _kl(dense_PV: Tensor, skipped_PV: Tensor) -> Tensor:
    """KL(dense || skipped) per row of logits; rounding below 0 is cut off."""
    log_p, log_q = dense_PV.float().log_softmax(-1), skipped_PV.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0.0)


def _ends(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """Hidden states that go into a unit and that come out of it."""
    return args[0] if args else kwargs["hidden_states"], output if isinstance(output, Tensor) else output[0]
