"""Importance against one plain forward pass per skip, against finite differences, and against counts by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skipmodel.data import Blocks
from skipmodel.errors import ConfigError, DataError
from skipmodel.importance import (
    CriticalSet,
    ImportanceReport,
    TokenDamage,
    critical_set,
    draw_tokens,
    gradient_scores,
    importance,
    scored_positions,
    skip_damage,
    token_skip_damage,
)
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.skip_path import IdentitySkipPath
from tests.tiny import FAMILIES, VOCAB, make_skip

KINDS = ("other", "glossary", "number")
N_REAL = (12, 7, 12)
FIRST = 2  # positions forced to execute


def make_blocks(n_real: tuple[int, ...] = N_REAL, length: int = 12, seed: int = 3) -> Blocks:
    """Random blocks of one document each, with a few critical tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(n_real), length)
    ids = torch.randint(3, VOCAB, shape, generator=generator)
    kind = torch.randint(0, 6, shape, generator=generator)
    kind[kind > 2] = 0
    names = tuple(f"secret-{index}" for index in range(len(n_real)))
    return Blocks(ids, torch.tensor(n_real), kind, torch.ones(shape, dtype=torch.long), names, KINDS)


def plain_kl(model: SkipLayerForCausalLM, ids_BT: Tensor, unit: int, skips_BT: Tensor) -> Tensor:
    """KL at every position from one dense and one masked pass, written out as a sum over the vocabulary."""
    mask = torch.ones(len(model.units), *ids_BT.shape, dtype=torch.bool)
    mask[unit] = ~skips_BT
    with torch.no_grad():
        with model.routing("dense"):
            p = model(ids_BT).logits.double().softmax(-1)
        with model.routing("hard", override_mask_LBT=mask):
            q = model(ids_BT).logits.double().softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


class Recorded(nn.Module):
    """A skip path that answers with updates given beforehand, whatever it is asked."""

    def __init__(self, update_1TD: Tensor) -> None:
        super().__init__()
        self.update_1TD = update_1TD

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        return self.update_1TD.expand_as(normalised_BTD)


def near_dense(model: SkipLayerForCausalLM, ids_1T: Tensor, size: float) -> dict[int, Tensor]:
    """Make every skip path the true update of this one block plus a random change; return the changes."""
    true: dict[int, Tensor] = {}

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        out = output if isinstance(output, Tensor) else output[0]
        true[module.skip_index] = (out - given if module.skip_adds_residual else out).detach()

    handles = [unit.register_forward_hook(keep, with_kwargs=True) for _, unit in model.routed]
    with torch.no_grad(), model.routing("dense"):
        model(ids_1T)
    for handle in handles:
        handle.remove()
    changes = {}
    for index, unit in model.routed:
        changes[index] = size * torch.randn_like(true[index])
        unit.skip_path = Recorded(true[index] + changes[index])
    return changes


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_map_is_one_plain_pass_per_layer(family: str) -> None:
    """For every family the map holds the KL of a pass in which all but the first positions skip that layer."""
    model, blocks = make_skip(family), make_blocks()
    got = skip_damage(model, blocks, batch_blocks=2)

    skips = torch.ones_like(blocks.real_NT)
    skips[:, :FIRST] = False
    expected = torch.stack([plain_kl(model, blocks.ids_NT, unit, skips) for unit, _ in model.routed])
    counts = scored_positions(model, blocks).expand_as(got)
    torch.testing.assert_close(got[counts].double(), expected[counts], atol=2e-5, rtol=1e-4)
    assert bool(got[~counts].isnan().all())
    assert float(got[counts].max()) > 0.01


@pytest.mark.parametrize("options", [{"unit": "attention"}, {"unit": "ffn"}, {"unit": "sublayers"}, {"kv": "drop"}])
def test_token_damage_is_one_plain_pass_per_pair(options: dict[str, str]) -> None:
    """Copies in one batch give what a pass per token and unit gives, for every unit and K/V policy."""
    model, blocks = make_skip(**options), make_blocks()
    tokens = torch.tensor([[0, 2], [0, 5], [0, 10], [1, 3]])
    got = token_skip_damage(model, blocks, tokens)

    assert got.own_LS.shape == (len(model.routed), 4)
    for place, (unit, _) in enumerate(model.routed):
        for number, (block, position) in enumerate(tokens.tolist()):
            skips = torch.zeros(1, 12, dtype=torch.bool)
            skips[0, position] = True
            kl = plain_kl(model, blocks.ids_NT[block : block + 1], unit, skips)[0]
            last = N_REAL[block] - 1
            assert float(got.own_LS[place, number]) == pytest.approx(float(kl[position]), rel=1e-3, abs=2e-5)
            assert float(got.total_LS[place, number]) == pytest.approx(
                float(kl[position:last].sum()), rel=1e-3, abs=1e-4
            )


def test_token_damage_of_whole_layers_is_one_plain_pass_per_pair() -> None:
    """The same where only the layers behind the skipped one run again; a skip harms later tokens too."""
    model, blocks = make_skip(), make_blocks()
    tokens = torch.tensor([[1, 4], [2, 2], [2, 9]])
    got = token_skip_damage(model, blocks, tokens)

    for place, (unit, _) in enumerate(model.routed):
        for number, (block, position) in enumerate(tokens.tolist()):
            skips = torch.zeros(1, 12, dtype=torch.bool)
            skips[0, position] = True
            kl = plain_kl(model, blocks.ids_NT[block : block + 1], unit, skips)[0]
            assert float(got.own_LS[place, number]) == pytest.approx(float(kl[position]), rel=1e-3, abs=2e-5)
            expected = float(kl[position : N_REAL[block] - 1].sum())
            assert float(got.total_LS[place, number]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert float((got.total_LS - got.own_LS).max()) > 1e-3


def test_a_layer_that_does_nothing_is_not_missed() -> None:
    """Where a layer's update is zero and the skip path is the identity, every measure and estimate is zero."""
    model, blocks = make_skip(path="identity"), make_blocks()
    unit, layer = model.routed[1]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    found = importance(model, blocks, n_pairs=40, n_draws=2)

    assert isinstance(layer.skip_path, IdentitySkipPath)
    at = found.units.index(unit)
    assert found.estimate_LNT is not None
    for values in (found.damage_LNT, found.score_LNT, found.estimate_LNT):
        assert float(values[at].nan_to_num().abs().max()) <= 1e-6
        assert float(values[at - 1].nanmean()) > 1e-3
    assert float(found.tokens.total_LS[at].abs().max()) <= 1e-5


@pytest.mark.parametrize("kind", ["layer", "sublayers"])
def test_score_is_the_derivative_of_the_loss(kind: str) -> None:
    """For small changes one backward pass gives the central difference of the loss with that one token skipping."""
    model, blocks = make_skip(unit=kind).double(), make_blocks((12,))
    changes = near_dense(model, blocks.ids_NT, size=1e-3)
    got, _ = gradient_scores(model, blocks)

    def loss(unit: int, position: int) -> float:
        mask = torch.ones(len(model.units), 1, 12, dtype=torch.bool)
        mask[unit, 0, position] = False
        with torch.no_grad(), model.routing("hard", override_mask_LBT=mask):
            logits = model(blocks.ids_NT).logits
        return float(nn.functional.cross_entropy(logits[0, :-1], blocks.ids_NT[0, 1:], reduction="sum"))

    pairs = [(2, 2), (4, 2), (7, 3), (10, 0)]
    differences = []
    for position, place in pairs:
        unit, module = model.routed[place]
        above = loss(unit, position)
        module.skip_path.update_1TD = module.skip_path.update_1TD - 2 * changes[unit]
        differences.append((above - loss(unit, position)) / 2)
    scores = [float(got[place, 0, position]) for position, place in pairs]
    assert scores == pytest.approx(differences, rel=2e-3, abs=1e-7)
    assert min(abs(score) for score in scores) > 1e-6


def test_estimate_is_the_damage_of_small_changes() -> None:
    """With many drawn next tokens the estimate comes near the true KL of single-token skips, unit by unit."""
    model, blocks = make_skip().double(), make_blocks((12,))
    near_dense(model, blocks.ids_NT, size=0.03)
    tokens = torch.tensor([[0, position] for position in range(FIRST, 11)])
    true = token_skip_damage(model, blocks, tokens).total_LS
    _, estimate = gradient_scores(model, blocks, n_draws=400)

    assert estimate is not None
    near = estimate[:, 0, FIRST:11]
    torch.testing.assert_close(near.sum(1), true.sum(1), rtol=0.15, atol=0)
    assert float((near.sum() / true.sum() - 1).abs()) < 0.05
    assert float(true.min()) > 0


def test_maps_do_not_see_padding_or_batches() -> None:
    """Other padding and other batch sizes leave every map as it is."""
    model, blocks = make_skip(), make_blocks()
    other = dataclasses.replace(blocks, ids_NT=blocks.ids_NT.where(blocks.real_NT, torch.tensor(5)))
    one = (skip_damage(model, blocks, 1), gradient_scores(model, blocks, batch_blocks=1)[0])
    all_ = (skip_damage(model, other, 3), gradient_scores(model, other, batch_blocks=3)[0])

    assert not torch.equal(blocks.ids_NT, other.ids_NT)
    for first, second in zip(one, all_, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4, equal_nan=True)
        assert torch.equal(first.isnan(), ~scored_positions(model, blocks).expand_as(first))


def test_model_is_left_as_it_was() -> None:
    """No gradient, hook, mode or training flag stays behind, whether or not the base is frozen."""
    model, blocks = make_skip(), make_blocks()
    for parameter in model.lm.get_input_embeddings().parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    mode = model.state.mode
    importance(model, blocks, n_pairs=8, n_draws=1)

    assert model.training
    assert model.state.mode == mode
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_frozen_model_is_scored_like_a_trainable_one() -> None:
    """Gradients reach every unit when no parameter asks for one."""
    model, blocks = make_skip(), make_blocks()
    free, _ = gradient_scores(model, blocks)
    model.requires_grad_(False)
    frozen, _ = gradient_scores(model, blocks)

    torch.testing.assert_close(free, frozen, equal_nan=True)
    assert float(frozen.nan_to_num().abs().amax((1, 2)).min()) > 0


def test_entry_point_keeps_its_budgets() -> None:
    """So many blocks, evenly spread, and so many pairs; progress counts every pass up to the announced total."""
    model, blocks = make_skip(), make_blocks((12,) * 6)
    seen: list[tuple[int, int]] = []
    found = importance(
        model, blocks, n_blocks=3, n_pairs=12, n_draws=2, batch_blocks=2, progress=lambda *at: seen.append(at)
    )

    assert found.block_indices == [0, 2, 4]
    assert found.units == [unit for unit, _ in model.routed]
    assert found.damage_LNT.shape == found.score_LNT.shape == (4, 3, 12)
    assert found.tokens.own_LS.numel() == 12
    total = seen[0][1]
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_without_sample_and_draws() -> None:
    """Budgets of zero leave out token damage and estimate, and their correlations are undefined, not zero."""
    found = importance(make_skip(), make_blocks(), n_pairs=0, n_draws=0)

    assert found.estimate_LNT is None
    assert found.correlations()["score_token_total"] is None
    assert found.correlations()["score_damage"] is not None
    assert found.to_json()["meets_target"]["score_token_own"] is None


def test_same_seed_same_result() -> None:
    """Sample and draws come from the seed alone."""
    model, blocks = make_skip(), make_blocks()
    first, second, other = (importance(model, blocks, n_pairs=8, n_draws=1, seed=seed) for seed in (1, 1, 2))

    assert first.to_json() == second.to_json()
    assert first.to_json() != other.to_json()


def _report() -> ImportanceReport:
    """Two units and 3 positions that count, by hand: the score ranks unit 0 rightly and unit 1 the wrong way round."""
    nan = torch.nan
    damage = torch.tensor([[[nan, 1.0, 2.0, 3.0, nan]], [[nan, 4.0, 5.0, 6.0, nan]]])
    score = torch.tensor([[[nan, 0.1, 0.2, 0.3, nan]], [[nan, 0.9, 0.8, 0.7, nan]]])
    tokens = TokenDamage(
        torch.tensor([[0, 1], [0, 3]]), torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[2.0, 1], [3, 4]])
    )
    one, two = (torch.tensor([[False, True, last, False, False]]) for last in (False, True))
    critical = CriticalSet(by_span_NT=one, by_damage_NT=two, holds_NT=two, predicts_NT=two)
    return ImportanceReport([3, 7], [0], 0, damage, score, None, tokens, critical)


def test_correlations_by_hand() -> None:
    """Rank correlations per unit and over all, against the map and against the sample of single tokens."""
    report = _report()

    assert report.correlations(0)["score_damage"] == pytest.approx(1.0)
    assert report.correlations(1)["score_damage"] == pytest.approx(-1.0)
    assert report.correlations()["score_damage"] == pytest.approx(1 - 6 * (2 * 2**2) / (6 * 35))
    assert report.correlations(0)["score_token_total"] == pytest.approx(-1.0)
    assert report.correlations(0)["score_token_own"] == pytest.approx(1.0)
    assert report.correlations()["damage_token_own"] == pytest.approx(1.0)


def test_json_by_hand() -> None:
    """Means per unit, counts, and which correlations reach the target."""
    found = _report().to_json()

    assert found["n_positions"] == 3
    assert found["n_pairs"] == 4
    assert found["n_critical"] == {"by_span": 1, "by_damage": 2, "both": 1}
    assert [row["unit"] for row in found["units"]] == [3, 7]
    assert [row["damage_nats"] for row in found["units"]] == pytest.approx([2.0, 5.0])
    assert found["units"][1]["score_nats"] == pytest.approx(0.8)
    assert found["meets_target"]["score_damage"] is True
    assert "estimate_damage" not in found["correlations"]


def test_json_tells_nothing_about_the_text() -> None:
    """The report is plain JSON without document names and without a list as long as the text."""
    found = importance(make_skip(), make_blocks(), n_pairs=8, n_draws=1).to_json()
    text = json.dumps(found, allow_nan=False)

    assert "secret" not in text
    assert not any(isinstance(value, list) for name, value in found.items() if name != "units")
    assert len(found["units"]) == 4


def test_critical_set_by_hand() -> None:
    """Spans and the most damaged predictions are united; each critical token has a holder and a predictor."""
    blocks = make_blocks((6, 4), 6)
    kind = torch.zeros(2, 6, dtype=torch.long)
    kind[0, 4], kind[1, 5] = 1, 2  # the second is padding
    blocks = dataclasses.replace(blocks, kind_NT=kind)
    nan = torch.nan
    damage = torch.tensor([[nan, nan, 0.1, 0.9, 0.2, nan], [nan, nan, 0.8, nan, nan, nan]])
    found = critical_set(blocks, torch.stack([damage, damage * 3]), share=0.5)

    assert found.by_span_NT.nonzero().tolist() == [[0, 4]]
    assert found.by_damage_NT.nonzero().tolist() == [[0, 4], [1, 3]]  # the tokens after the two worst positions
    assert found.holds_NT.nonzero().tolist() == [[0, 4], [1, 3]]
    assert found.predicts_NT.nonzero().tolist() == [[0, 3], [1, 2]]


@given(st.integers(0, 2**16), st.floats(0, 1), st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_critical_set_properties(seed: int, share: float, n_real: list[int]) -> None:
    """The share is met, no padding is critical, and predictors stand one before holders."""
    blocks = make_blocks(tuple(n_real), 9, seed)
    scored = torch.zeros_like(blocks.real_NT)
    scored[:, :-1] = blocks.real_NT[:, 1:]
    damage = torch.rand(3, *scored.shape, generator=torch.Generator().manual_seed(seed))
    found = critical_set(blocks, damage.masked_fill(~scored, torch.nan), share)

    assert int(found.by_damage_NT.sum()) == round(share * int(scored.sum()))
    assert not bool((found.holds_NT & ~blocks.real_NT).any())
    assert torch.equal(found.holds_NT, found.by_span_NT | found.by_damage_NT)
    assert torch.equal(found.predicts_NT[:, :-1], found.holds_NT[:, 1:])
    assert not bool(found.predicts_NT[:, -1].any())
    mean = damage.mean(0)
    chosen = torch.zeros_like(scored)
    chosen[:, :-1] = found.by_damage_NT[:, 1:]
    if bool(chosen.any()) and bool((scored & ~chosen).any()):
        assert float(mean[chosen].min()) >= float(mean[scored & ~chosen].max())


@given(st.integers(0, 2**16), st.integers(0, 40))
def test_drawn_tokens_count_and_do_not_repeat(seed: int, n_tokens: int) -> None:
    """No more tokens than asked, each once, all at positions that count, and from no more blocks than needed."""
    scored = torch.rand(6, 10, generator=torch.Generator().manual_seed(seed)) < 0.5
    drawn = draw_tokens(scored, n_tokens, seed)

    assert drawn.shape[1] == 2
    assert len({tuple(pair) for pair in drawn.tolist()}) == len(drawn) <= n_tokens
    assert bool(scored[drawn[:, 0], drawn[:, 1]].all())
    assert len(set(drawn[:, 0].tolist())) <= -(-n_tokens // 8)
    assert drawn.tolist() == sorted(drawn.tolist())


def test_budgets_out_of_range_are_refused() -> None:
    """A budget below its least value is one clear error."""
    with pytest.raises(ConfigError, match="n_blocks"):
        importance(make_skip(), make_blocks(), n_blocks=0)
    with pytest.raises(ConfigError, match="n_draws"):
        importance(make_skip(), make_blocks(), n_draws=-1)


def test_a_model_without_routed_units_is_refused() -> None:
    """Nothing can be skipped, so nothing can be measured."""
    model = make_skip()
    model.close_units(list(model.config.routed_units))

    with pytest.raises(ConfigError, match="routed units"):
        importance(model, make_blocks())


def test_blocks_too_short_to_skip_anything_are_refused() -> None:
    """Blocks that end within the forced positions hold nothing to measure."""
    with pytest.raises(DataError, match="more than 3 tokens"):
        importance(make_skip(), make_blocks((3, 2), 6))
