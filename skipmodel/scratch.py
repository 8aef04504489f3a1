"""The claim of the SkipLayer paper, from scratch and small: does a deeper net that skips beat a dense one?

Four nets learn the same text, with the same start seed, data order, number of tokens and learning rate:

    dense_effective   layers * density layers, all executed
    dense_full        all layers, all executed
    skiplayer         all layers, each token executes about the density of them, as its routers say
    random_gate       the same net without routers: coin flips at the rates that skiplayer ended with

**Source**: D. Zeng et al., SkipLayer, arXiv 2311.15436: linear router to two logits without bias, straight-through
Gumbel-Softmax, a skipped token unchanged but with keys and values, loss = NLL + 0.1 * sum over layers of (executed
share - density)^2, inference by argmax. Ours: size, data, AdamW, a Llama-like net with its gated feed-forward part.

Legend: S steps, N blocks, B blocks in a step, T tokens in a block, L layers.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Tokenizer, LlamaConfig

from skipmodel.config import SkipConfig
from skipmodel.data import Blocks, Document, cut, sample, tokenize
from skipmodel.engine.executor import Engine, Routing
from skipmodel.evaluate import BlockScores, score_blocks, skip_rate_by_kind
from skipmodel.gate import threshold_to_logit
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.optimise import Trainer
from skipmodel.scratch_config import ScratchConfig

SCHEMA_VERSION = 1
ARMS = ("dense_effective", "dense_full", "skiplayer", "random_gate")
RIVALS = ("dense_effective", "dense_full", "random_gate", "dense_at_equal_work")
CLAIM = "at its own executed work the SkipLayer net has a lower validation loss than dense nets and than random gates"
ARGMAX_THRESHOLD = 0.5

Progress = Callable[[str, int, int], None]


def run_scratch(
    training: Sequence[Document], validation: Sequence[Document], kinds: Sequence[str], config: ScratchConfig,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Train and score all nets with all seeds.

    Args:
        training: Documents that tokenizer and nets learn.
        validation: Documents that they are scored on.
        kinds: Names of the token classes; the first is `other`.
        config: Sizes, steps, seeds.
        progress: Called with what is trained, steps done and steps in total.

    Returns:
        schema_version, settings, environment, data, rows per seed and net, summary with `claim_holds`. The same
        on every call with the same arguments and machine.

    Raises:
        DataError: A split has no full block.
        TrainingError: A training diverged.
    """
    tokenizer = train_tokenizer([document.text for document in training], config.tokenizer_vocab)
    pad_id = tokenizer.eos_token_id
    blocks = cut(tokenize(training, tokenizer, kinds), config.block_tokens, pad_id, kinds)
    blocks = sample(blocks, int(blocks.n_real_N.sum()), 0, full_only=True)
    held_out = sample(
        cut(tokenize(validation, tokenizer, kinds), config.block_tokens, pad_id, kinds), config.validation_tokens, 0
    )
    rows: list[dict[str, Any]] = []
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        order_SB = data_order(len(blocks), config, seed)
        rates_L: list[float] | None = None
        for arm in ARMS:
            model = build(arm, config, len(tokenizer), seed)
            trained = train(
                model, arm, blocks, order_SB, config, seed, rates_L,
                lambda done, what=f"seed {seed}, {arm}": progress(what, done, config.steps),  # type: ignore[misc]
            )  # fmt: skip
            row: dict[str, Any] = {"arm": arm, "seed": seed} | score(model, arm, held_out, seed, rates_L) | trained
            rows.append(row)
            if arm == "skiplayer":
                rates_L = row["execute_share_per_layer"]
    add_ratios(rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": dataclasses.asdict(config),
        "environment": _environment(),
        "data": {
            "vocabulary": len(tokenizer), "training_blocks": len(blocks),
            "training_tokens": int(blocks.n_real_N.sum()), "validation_tokens": int(held_out.n_real_N.sum()),
            "epochs": config.steps * config.batch_blocks / len(blocks),
        },
        "rows": rows,
        "summary": summarise(rows, config.confidence),
    }  # fmt: skip


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer learnt from texts; every other text can be written in its bytes too."""
    blank = GPT2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    return blank.train_new_from_iterator([list(texts)], vocabulary, show_progress=False)


def data_order(n_blocks: int, config: ScratchConfig, seed: int) -> Tensor:
    """Return the blocks of each step, (S, B): one shuffle of all blocks after another."""
    generator = torch.Generator().manual_seed(seed)
    wanted = config.steps * config.batch_blocks
    shuffles = [torch.randperm(n_blocks, generator=generator) for _ in range(-(-wanted // n_blocks))]
    return torch.cat(shuffles)[:wanted].view(config.steps, config.batch_blocks)


def build(arm: str, config: ScratchConfig, vocabulary: int, seed: int) -> SkipLayerForCausalLM:
    """Return an untrained net; arms of one depth start from the same weights for the same seed.

    **Formula**: weights from N(0, s^2) with s = 0.02 * sqrt(768 / width), matrices that end a residual branch from
    N(0, s^2 / (2 * number of layers)).

    **Source**: GPT-2 (Radford et al., 2019), whose 0.02 is for width 768; the SkipLayer paper names no start. With
    0.02 for narrow nets, depth delays learning by more than any other difference between the nets.
    """
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=config.width, intermediate_size=config.ffn_width,
        num_hidden_layers=config.effective_layers if arm == "dense_effective" else config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads,
        max_position_embeddings=config.block_tokens, tie_word_embeddings=True,
        initializer_range=0.02 * math.sqrt(768 / config.width), bos_token_id=None, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    base: Any = AutoModelForCausalLM.from_config(shape)
    with torch.no_grad():
        for layer in base.model.layers:
            for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                matrix.mul_((2 * shape.num_hidden_layers) ** -0.5)
    skip = SkipConfig(
        path="identity", router="linear", always_run_first=0, always_run_last=0, force_first_positions=0,
        force_critical=False,
    )  # fmt: skip
    return SkipLayerForCausalLM.from_base(base, skip)


def train(
    model: SkipLayerForCausalLM, arm: str, blocks: Blocks, order_SB: Tensor, config: ScratchConfig, seed: int,
    rates_L: Sequence[float] | None, progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:  # fmt: skip
    """Train all weights in place and return training loss and executed shares, means of the last tenth of the steps.

    **Formula**: mean NLL of the next token + density_weight * sum_l (executed share_l - density)^2, the second term
    for `skiplayer` only. Shares are those of the step's noisy gates.

    Args:
        model: Net of this arm.
        arm: One of `ARMS`.
        blocks: Full blocks.
        order_SB: Blocks of each step.
        config: Steps, rates and weights.
        seed: Of gate noise and coin flips.
        rates_L: Executed share per layer of `random_gate`; None for the other arms.
        progress: Called with the steps done.
    """
    trainer = Trainer({"weights": (list(model.parameters()), config.learning_rate)}, len(order_SB), f"scratch, {arm}")
    generator = torch.Generator().manual_seed(seed)
    shares: list[list[float]] = []
    model.train()
    for step, chosen_B in enumerate(order_SB):
        ids_BT = blocks.ids_NT[chosen_B]
        if arm == "skiplayer":
            mode, fields = "train", {"gumbel_scale": config.gumbel_scale, "temperature": config.temperature,
                                     "generator": generator, "detach_router": False}  # fmt: skip
        elif arm == "random_gate":
            mode, fields = "train", {"override_mask_LBT": flip(rates_L or [], ids_BT.shape, generator)}
        else:
            mode, fields = "dense", {}
        with model.routing(mode, **fields) as state:
            logits = model(ids_BT, use_cache=False).logits
            gates_BT = dict(state.gates_BT)
        nll = cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        loss = nll
        if gates_BT:
            share_L = torch.stack(list(gates_BT.values())).mean((1, 2))
            shares.append(share_L.detach().tolist())
            if arm == "skiplayer":
                loss = nll + config.density_weight * (share_L - config.density).square().sum()
        loss.backward()
        trainer.step(step)
        trainer.log.rows.append({"nll": nll.item()})
        trainer.watch(step, "nll", math.log(logits.shape[-1]))
        progress(step + 1)
    last = slice(-max(1, len(order_SB) // 10), None)
    mean_share_L = np.mean(shares[last], 0).tolist() if shares else [1.0] * len(model.layers)
    return {"training_nats_per_token": trainer.log.mean_of("nll", last), "training_execute_share": mean_share_L}


def flip(rates_L: Sequence[float], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return a mask (L, B, T) of independent coin flips; True, the layer runs, with the layer's rate."""
    draw_LBT = torch.rand((len(rates_L), *shape), generator=generator)
    return draw_LBT < torch.tensor(rates_L)[:, None, None]


def score(
    model: SkipLayerForCausalLM, arm: str, held_out: Blocks, seed: int, rates_L: Sequence[float] | None
) -> dict[str, Any]:
    """Score held-out text with the decisions of inference, skipped work left out, and count what was executed.

    Returns:
        nats_per_token, bits_per_byte, executed_layers (mean per token), execute_share_per_layer, multiply_adds
        (see `multiply_adds`), skip_rate_by_class, n_layers, n_parameters (those in use).
    """
    engine = Engine(model.eval())
    routing = None
    if arm == "skiplayer":
        routing = engine.routing(threshold_to_logit(ARGMAX_THRESHOLD))
    elif arm == "random_gate":
        generator = torch.Generator().manual_seed(seed)
        routing = Routing(override_mask_LBT=flip(rates_L or [], held_out.ids_NT.shape, generator))
    scores = score_blocks(engine, held_out, routing, force_critical=False)
    scored_NT = held_out.real_NT[:, 1:]
    nats = float(scores.nll_NT[scored_NT].double().sum())
    ran_LX = scores.execute_mask_LNT[:, held_out.real_NT].double()
    n_routers = sum(p.numel() for _, layer in model.routed for p in layer.router.parameters())
    n_used = sum(p.numel() for p in model.parameters()) - (0 if arm == "skiplayer" else n_routers)
    return {
        "n_layers": len(model.layers),
        "n_parameters": n_used,
        "nats_per_token": nats / int(scored_NT.sum()),
        "bits_per_byte": nats / math.log(2) / int(held_out.bytes_NT[:, 1:][scored_NT].sum()),
        "executed_layers": float(ran_LX.sum(0).mean()),
        "execute_share_per_layer": ran_LX.mean(1).tolist(),
        "multiply_adds": multiply_adds(model, held_out, scores, has_routers=arm == "skiplayer"),
        "skip_rate_by_class": skip_rate_by_kind(held_out, scores, engine.work),
    }


def multiply_adds(
    model: SkipLayerForCausalLM, blocks: Blocks, scores: BlockScores, *, has_routers: bool
) -> dict[str, float]:
    """Return executed multiply-adds per token, by part; `layers` and `total` are sums of the parts before them.

    **Formula**, with D width, A width of all heads, F feed-forward width, V vocabulary, e_l executed share of layer l:
    key_value = L * 2 D A, of which key_value_of_skipped = sum_l (1 - e_l) * 2 D A; query_output = sum_l e_l * 2 D A;
    scores = sum_l mean of (2 A * keys seen) over executed tokens, a token at position t seeing t + 1 keys, skipped
    ones included; feed_forward = sum_l e_l * 3 D F; router = L * 2 D; vocabulary = D V. Norms, rotary embedding,
    softmax and the residual sums are not matrix products and are left out of all nets alike.

    **Source**: ours; the paper counts executed layers and names the keys and values of skipped tokens as the price.
    """
    shape = model.config.text_config
    head_width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    width, query = shape.hidden_size, shape.num_attention_heads * head_width
    pair = 2 * width * shape.num_key_value_heads * head_width
    real_NT = blocks.real_NT
    n_layers = len(scores.execute_mask_LNT)
    ran = scores.execute_mask_LNT & real_NT
    n_tokens = int(real_NT.sum())
    executed = float(ran.double().sum()) / n_tokens
    keys_T = torch.arange(1, real_NT.shape[1] + 1, dtype=torch.double)
    parts = {
        "query_output": executed * 2 * width * query,
        "key_value": float(n_layers * pair),
        "scores": float((ran * keys_T).sum()) / n_tokens * 2 * query,
        "feed_forward": executed * 3 * width * shape.intermediate_size,
        "router": float(n_layers * 2 * width) if has_routers else 0.0,
    }
    layers = sum(parts.values())
    vocabulary = float(width * shape.vocab_size)
    return parts | {
        "layers": layers, "vocabulary": vocabulary, "total": layers + vocabulary,
        "key_value_of_skipped": (n_layers - executed) * pair,
    }  # fmt: skip


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row its work relative to dense_effective of the same seed: `work_ratio` and `layer_work_ratio`."""
    for row in rows:
        unit = _of(rows, "dense_effective", row["seed"])["multiply_adds"]
        row["work_ratio"] = row["multiply_adds"]["total"] / unit["total"]
        row["layer_work_ratio"] = row["multiply_adds"]["layers"] / unit["layers"]


def summarise(rows: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Return mean and spread per arm, paired differences, and what they say about the claim.

    `dense_at_equal_work` is what a dense net with the executed work of this seed's SkipLayer net would score, read
    off the line through both dense nets, or the loss of dense_effective where that is lower.

    Returns:
        arms; comparisons of skiplayer with each rival in nats per token, below 0 = skiplayer is better;
        `claim_holds`: against dense_at_equal_work and random_gate the whole t interval over seeds lies below 0;
        `claim_refuted`: against one of them it lies above 0. With neither, the seeds do not decide.
    """
    seeds = sorted({row["seed"] for row in rows})
    columns = ("nats_per_token", "bits_per_byte", "executed_layers", "work_ratio", "layer_work_ratio")
    arms = []
    for arm in ARMS:
        own = [_of(rows, arm, seed) for seed in seeds]
        arms.append({"arm": arm, "n_layers": own[0]["n_layers"], "n_parameters": own[0]["n_parameters"]}
                    | {name: t_interval([row[name] for row in own], confidence) for name in columns})  # fmt: skip
    comparisons = {}
    for rival in RIVALS:
        differences = [_of(rows, "skiplayer", seed)["nats_per_token"] - _nats(rows, rival, seed) for seed in seeds]
        comparisons[rival] = t_interval(differences, confidence)
    needed = [comparisons[rival] for rival in ("dense_at_equal_work", "random_gate")]
    return {
        "arms": arms,
        "comparisons": [{"method": "skiplayer", "rival": rival} | interval for rival, interval in comparisons.items()],
        "claim": CLAIM,
        "claim_holds": all(interval["high"] < 0 for interval in needed),
        "claim_refuted": any(interval["low"] > 0 for interval in needed),
    }


def _nats(rows: Sequence[dict[str, Any]], arm: str, seed: int) -> float:
    if arm != "dense_at_equal_work":
        return float(_of(rows, arm, seed)["nats_per_token"])
    shallow, deep = (_of(rows, name, seed) for name in ("dense_effective", "dense_full"))
    slope = (deep["nats_per_token"] - shallow["nats_per_token"]) / (deep["work_ratio"] - shallow["work_ratio"])
    extra = _of(rows, "skiplayer", seed)["work_ratio"] - shallow["work_ratio"]
    return float(shallow["nats_per_token"] + min(slope * extra, 0.0))


def _of(rows: Sequence[dict[str, Any]], arm: str, seed: int) -> dict[str, Any]:
    return next(row for row in rows if row["arm"] == arm and row["seed"] == seed)


def t_interval(values: Sequence[float], confidence: float) -> dict[str, float]:
    """Return mean, sd (n - 1), low and high of the two-sided Student t interval of the mean, and n (at least 2)."""
    n, mean, sd = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    half = t_quantile(confidence, n - 1) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def t_quantile(confidence: float, degrees: int) -> float:
    """Return t with P(|T| < t) = confidence for Student's t distribution.

    **Formula**: with t = sqrt(degrees) * tan(a) the density of a is proportional to cos(a)^(degrees - 1); its
    integral is taken numerically, to five digits.
    """
    angle = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence, mass / mass[-1], angle)))


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "numpy": np.__version__, "machine": platform.machine(), "device": "cpu", "dtype": "float32",
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip
