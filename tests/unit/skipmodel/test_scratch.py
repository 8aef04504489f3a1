"""The from-scratch experiment on a tiny case: equal where it must be, counted right, reproducible, honest."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from skipmodel.__main__ import main
from skipmodel.data import Blocks, Document, Span
from skipmodel.engine.executor import Engine
from skipmodel.errors import ConfigError, DataError
from skipmodel.evaluate import score_blocks
from skipmodel.gate import threshold_to_logit
from skipmodel.scratch import (
    ARMS,
    add_ratios,
    build,
    data_order,
    flip,
    multiply_adds,
    run_scratch,
    score,
    summarise,
    t_quantile,
    train,
    train_tokenizer,
)
from skipmodel.scratch_config import ScratchConfig

CONFIG = ScratchConfig(layers=4, width=16, heads=2, ffn_width=24, tokenizer_vocab=280, block_tokens=16, batch_blocks=2,
                       steps=3, validation_tokens=64, seeds=2)  # fmt: skip
VOCAB = 40
TEXT = "The server reads httpd.conf once. サーバは設定を一度だけ読む。 Restart it after every change; 8080 is no port. "


def documents(prefix: str = "d", n: int = 3) -> list[Document]:
    return [Document(f"{prefix}{i}", TEXT * (i + 1), (Span(17, 27, "code"),), "en") for i in range(n)]


def token_blocks(n: int = 6, length: int = 16, seed: int = 0) -> Blocks:
    ids = torch.randint(0, VOCAB, (n, length), generator=torch.Generator().manual_seed(seed))
    real = torch.tensor([length] * (n - 1) + [length // 2])
    names = tuple(f"d{i}" for i in range(n))
    return Blocks(ids, real, torch.zeros_like(ids), torch.ones_like(ids), names, ("other",))


def decisive(config: ScratchConfig = CONFIG) -> Any:
    """A net whose routers send about half of the tokens past each layer."""
    model = build("skiplayer", config, VOCAB, 0)
    torch.manual_seed(1)
    for _, layer in model.routed:
        torch.nn.init.normal_(layer.router.weight)
    return model


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return run_scratch(documents(), documents("v"), ["other", "code"], CONFIG)


def test_threshold_zero_is_the_dense_net() -> None:
    """The SkipLayer net starts as the dense net of full depth and with threshold 0 computes what that computes."""
    skip, dense = decisive(), build("dense_full", CONFIG, VOCAB, 0)
    blocks = token_blocks()
    engine = Engine(skip)
    all_run = score_blocks(engine, blocks, engine.routing(threshold_to_logit(0.0)), force_critical=False)
    halved = score_blocks(engine, blocks, engine.routing(threshold_to_logit(0.5)), force_critical=False)
    reference = score_blocks(Engine(dense), blocks, None, force_critical=False)

    torch.testing.assert_close(all_run.nll_NT, reference.nll_NT, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(halved.nll_NT, reference.nll_NT, rtol=1e-5, atol=1e-5)


def test_scoring_follows_the_reference_with_argmax_and_no_noise() -> None:
    """Loss and executed layers of the gathered scoring are those of the masked net at threshold 0.5."""
    model, blocks = decisive(), token_blocks()
    row = score(model, "skiplayer", blocks, 0, None)
    model.set_threshold(0.5)
    with torch.inference_mode(), model.routing("hard") as state:
        logits = model(blocks.ids_NT).logits
        ran = torch.stack([state.gates_BT[index] for index, _ in model.routed])
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), blocks.ids_NT[:, 1:], reduction="none")

    assert row["nats_per_token"] == pytest.approx(float(nll[blocks.real_NT[:, 1:]].mean()), rel=1e-5)
    assert row["executed_layers"] == pytest.approx(float(ran[:, blocks.real_NT].float().sum(0).mean()))
    assert 0.5 < row["executed_layers"] < 3.5


def counted_by_hooks(model: Any, blocks: Blocks, execute_mask_LNT: torch.Tensor, has_routers: bool) -> float:
    """Run the net and count, product by product and token by token, what a net that skips has to multiply."""
    real_NT = blocks.real_NT
    counted = 0.0
    hooks = []

    def count(module: Any, tokens_NT: torch.Tensor) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            nonlocal counted
            counted += int(tokens_NT.sum()) * inputs[0].shape[-1] * output.shape[-1]

        return module.register_forward_hook(hook)

    for layer, ran_NT in zip(model.layers, execute_mask_LNT, strict=True):
        for name, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                always = name.endswith(("k_proj", "v_proj"))
                hooks.append(count(module, real_NT if always else ran_NT & real_NT))
    hooks.append(count(model.get_output_embeddings(), real_NT))
    with torch.inference_mode(), model.routing("dense"):
        model(blocks.ids_NT)
    for hook in hooks:
        hook.remove()
    heads = model.config.text_config.num_attention_heads
    head_width = model.config.text_config.hidden_size // heads
    for ran_NT in execute_mask_LNT & real_NT:
        for row in ran_NT:
            for position in row.nonzero().flatten().tolist():
                for _seen in range(position + 1):
                    counted += heads * 2 * head_width
    if has_routers:
        counted += sum(layer.router.weight.numel() for _, layer in model.routed) * int(real_NT.sum())
    return counted / int(real_NT.sum())


@pytest.mark.parametrize("arm", ["dense_effective", "dense_full", "skiplayer"])
def test_multiply_adds_equal_a_count_by_hooks(arm: str) -> None:
    """The formula gives what hooks on every matrix and a loop over all attended pairs count."""
    blocks = token_blocks()
    model = decisive() if arm == "skiplayer" else build(arm, CONFIG, VOCAB, 0)
    engine = Engine(model)
    routing = engine.routing(0.0) if arm == "skiplayer" else None
    scores = score_blocks(engine, blocks, routing, force_critical=False)
    parts = multiply_adds(model, blocks, scores, has_routers=arm == "skiplayer")

    expected = counted_by_hooks(model, blocks, scores.execute_mask_LNT, arm == "skiplayer")
    assert parts["total"] == pytest.approx(expected, rel=1e-12)
    assert parts["total"] == pytest.approx(parts["layers"] + parts["vocabulary"])


def test_keys_and_values_of_skipped_tokens_are_paid_for() -> None:
    """A net of twice the depth that executes half of it costs more than the dense net of half the depth."""
    blocks = token_blocks()
    shallow, deep = (build(arm, CONFIG, VOCAB, 0) for arm in ("dense_effective", "skiplayer"))
    dense = score_blocks(Engine(shallow), blocks, None, force_critical=False)
    half = copy.copy(dense.execute_mask_LNT).repeat(2, 1, 1)
    half[2:] = False
    of_dense = multiply_adds(shallow, blocks, dense, has_routers=False)
    of_half = multiply_adds(deep, blocks, type(dense)(dense.nll_NT, dense.top1_NT, half), has_routers=True)

    extra = of_half["key_value_of_skipped"] + of_half["router"]
    assert of_half["key_value_of_skipped"] == 2 * 2 * CONFIG.width**2
    assert of_half["total"] - of_dense["total"] == pytest.approx(extra)


def test_result_has_all_rows_and_says_what_follows(result: dict[str, Any]) -> None:
    """One row per seed and net, plain JSON, intervals around means, and a claim computed from them."""
    summary = result["summary"]
    again = json.loads(json.dumps(result))

    assert again == result
    assert result["schema_version"] == 1
    assert [(row["seed"], row["arm"]) for row in result["rows"]] == [(s, arm) for s in (0, 1) for arm in ARMS]
    assert [row["n_layers"] for row in result["rows"][:4]] == [2, 4, 4, 4]
    assert all(len(row["execute_share_per_layer"]) == row["n_layers"] for row in result["rows"])
    assert all(row["executed_layers"] == row["n_layers"] for row in result["rows"] if row["arm"].startswith("dense"))
    assert result["rows"][0]["work_ratio"] == 1.0
    sizes = {row["arm"]: row["n_parameters"] for row in result["rows"]}
    assert sizes["skiplayer"] - sizes["dense_full"] == 4 * 2 * CONFIG.width  # the routers, and nothing else
    assert sizes["random_gate"] == sizes["dense_full"]
    assert {entry["rival"] for entry in summary["comparisons"]} == {
        "dense_effective", "dense_full", "random_gate", "dense_at_equal_work"
    }  # fmt: skip
    assert all(entry["low"] <= entry["mean"] <= entry["high"] for entry in summary["comparisons"])
    assert not (summary["claim_holds"] and summary["claim_refuted"])


def test_result_holds_no_text_of_the_corpus(result: dict[str, Any]) -> None:
    """Neither texts nor names of documents leave the experiment."""
    written = json.dumps(result, ensure_ascii=False)

    assert "httpd" not in written
    assert "サーバ" not in written
    assert not any(f'"{name}{i}"' in written for name in "dv" for i in range(3))


def test_same_seed_gives_the_same_result(result: dict[str, Any]) -> None:
    """A second call repeats every number; another seed gives other ones."""
    second = run_scratch(documents(), documents("v"), ["other", "code"], CONFIG)

    assert second == result
    assert result["rows"][0]["nats_per_token"] != result["rows"][4]["nats_per_token"]


def test_random_gates_have_the_rates_of_the_routers(result: dict[str, Any]) -> None:
    """The control executes, layer by layer, about the share that the trained routers execute."""
    generator = torch.Generator().manual_seed(0)
    mask = flip([0.0, 0.3, 1.0], (200, 100), generator)

    assert mask.float().mean((1, 2)).tolist() == pytest.approx([0.0, 0.3, 1.0], abs=0.02)
    for seed in (0, 1):
        learned, random = (
            next(row for row in result["rows"] if (row["arm"], row["seed"]) == (arm, seed))
            for arm in ("skiplayer", "random_gate")
        )
        assert random["executed_layers"] == pytest.approx(learned["executed_layers"], abs=0.8)


def test_density_loss_moves_the_routers() -> None:
    """With a heavy density loss the noisy share of each layer comes near its target, from far off."""
    config = ScratchConfig(layers=2, width=16, heads=2, ffn_width=24, block_tokens=16, steps=60, density_weight=100.0,
                           learning_rate=0.05, batch_blocks=4)  # fmt: skip
    model = build("skiplayer", config, VOCAB, 0)
    for _, layer in model.routed:
        layer.router.weight.data[1] += 0.4 * model.get_input_embeddings().weight.mean(0).sign()
    blocks = token_blocks().take(range(5))
    log = train(model, "skiplayer", blocks, data_order(5, config, 0), config, 0, None)

    assert log["training_execute_share"] == pytest.approx([0.5, 0.5], abs=0.12)


def test_training_routes_as_in_the_paper() -> None:
    """Noisy gates whose gradient goes on into the net: the density loss alone changes the embedding."""
    model = build("skiplayer", CONFIG, VOCAB, 0)
    seen: list[tuple[str, float, bool]] = []
    hook = model.register_forward_hook(
        lambda *_: seen.append((model.state.mode, model.state.gumbel_scale, model.state.detach_router))
    )
    train(model, "skiplayer", token_blocks().take(range(5)), data_order(5, CONFIG, 0), CONFIG, 0, None)
    hook.remove()
    mode, scale, is_detached = seen[-1]
    model.zero_grad()
    with model.routing(mode, gumbel_scale=scale, detach_router=is_detached) as state:
        model(token_blocks().ids_NT, use_cache=False)
        share_L = torch.stack(list(state.gates_BT.values())).mean((1, 2))
    share_L.square().sum().backward()

    assert seen == [("train", 1.0, False)] * CONFIG.steps
    assert float(model.get_input_embeddings().weight.grad.abs().sum()) > 0


def test_order_is_a_run_of_shuffles() -> None:
    """Every block is read once before any is read twice, in an order that only the seed sets."""
    config = ScratchConfig(steps=5, batch_blocks=4)
    order = data_order(10, config, 3)

    assert order.shape == (5, 4)
    assert sorted(order.flatten()[:10].tolist()) == list(range(10))
    assert torch.equal(order, data_order(10, config, 3))
    assert not torch.equal(order, data_order(10, config, 4))


def test_tokenizer_writes_any_text() -> None:
    """Characters that training never showed come back from their bytes."""
    tokenizer = train_tokenizer([TEXT], 280)
    unseen = "ζ 漢字 ⚙"

    assert len(tokenizer) <= 280
    assert tokenizer.decode(tokenizer(unseen)["input_ids"]) == unseen


@pytest.mark.parametrize("degrees", [1, 2, 4, 30])
def test_t_quantile_is_that_of_scipy(degrees: int) -> None:
    """The quantile agrees with a statistics library to four digits."""
    for confidence in (0.5, 0.9, 0.95, 0.99):
        expected = float(stats.t.ppf(0.5 + confidence / 2, degrees))
        assert t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-4)


def made_up(skip: float, random: float, full: float = 3.0, work: float = 1.2) -> list[dict[str, Any]]:
    """Rows of three seeds with these losses and a little spread; dense_effective has 3.1 nats."""
    rows: list[dict[str, Any]] = []
    losses = {"dense_effective": 3.1, "dense_full": full, "skiplayer": skip, "random_gate": random}
    works = {"dense_effective": 1.0, "dense_full": 2.0, "skiplayer": work, "random_gate": work}
    for seed, shift in enumerate((0.0, 0.001, -0.001)):
        for arm in ARMS:
            rows.append({
                "arm": arm, "seed": seed, "n_layers": 4, "n_parameters": 1, "executed_layers": 2.0,
                "nats_per_token": losses[arm] + shift * (arm == "skiplayer"), "bits_per_byte": 1.0,
                "multiply_adds": {"total": works[arm], "layers": works[arm]},
            })  # fmt: skip
    add_ratios(rows)
    return rows


@pytest.mark.parametrize(
    ("skip", "random", "full", "holds", "refuted"),
    [
        (3.05, 3.2, 3.0, True, False),
        (3.09, 3.2, 3.0, False, True),  # better than the shallow net, but a dense net of equal work has 3.08
        (3.0802, 3.2, 3.0, False, False),  # no difference that three seeds could show
        (3.05, 3.0, 3.0, False, True),  # coin flips do better
        (3.12, 3.2, 3.3, False, True),  # a deeper dense net that is worse does not lower the bar
    ],
)
def test_claim_follows_from_the_rows(skip: float, random: float, full: float, holds: bool, refuted: bool) -> None:
    """It holds only if beaten are random gates and a dense net that may spend the same work."""
    summary = summarise(made_up(skip, random, full), 0.95)

    assert (summary["claim_holds"], summary["claim_refuted"]) == (holds, refuted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "--seeds .* at least 2"),
        ({"layers": 5}, "--density .* whole number"),
        ({"density": 1.0}, "--density .* within"),
        ({"width": 20, "heads": 4}, "--width .* multiple of twice the heads, 8"),
        ({"tokenizer_vocab": 100}, "--tokenizer-vocab .* 256 bytes"),
        ({"learning_rate": 0.0}, "--learning-rate .* above 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """The message names the option and what it must be."""
    with pytest.raises(ConfigError, match=message):
        ScratchConfig(**changes)


def test_too_little_text_is_refused() -> None:
    """A split without a full block is named as such."""
    with pytest.raises(DataError, match="corpus"):
        run_scratch([Document("d", "short")], documents("v"), ["other", "code"], CONFIG)


def test_command_writes_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`scratch` reads documents.jsonl, writes the result file and prints its summary."""
    rows = [
        {"document_id": f"{split}{i}", "text": document.text, "language": "en", "split": split,
         "spans": [{"start": 17, "end": 27, "kind": "code"}]}
        for split in ("train", "validation") for i, document in enumerate(documents())
    ]  # fmt: skip
    source, out = tmp_path / "documents.jsonl", tmp_path / "result.json"
    source.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    sizes = "--layers 2 --width 16 --heads 2 --ffn-width 24 --tokenizer-vocab 280 --block-tokens 16 --batch-blocks 2"
    options = [*sizes.split(), "--steps", "2", "--seeds", "2", "--validation-tokens", "64"]
    code = main(["scratch", "--documents", str(source), "--out", str(out), *options])
    written = json.loads(out.read_text("utf-8"))

    assert code == 0
    assert json.loads(capsys.readouterr().out) == written["summary"]
    assert written["settings"]["layers"] == 2
    assert written["measured_s"] > 0
    assert str(tmp_path) not in out.read_text("utf-8")
    assert main(["scratch", "--documents", str(source), "--out", str(tmp_path / "no" / "r.json")]) == 2
    assert "--out" in capsys.readouterr().err
