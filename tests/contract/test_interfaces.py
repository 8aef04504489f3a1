"""A checkpoint is a Hugging Face model like any other: generate(), pipeline(), AutoModel and lm-eval take it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from skipmodel.config import SkipConfig
from skipmodel.model import SkipLayerConfig, SkipLayerForCausalLM
from tests.tiny import FAMILIES, VOCAB, make_base, make_skip, save_base_folder

WINDOWED = {f"{family}, window 4": (family, {"sliding_window": 4}) for family in ("mistral", "gemma2", "gemma3_text")}
CASES: dict[str, tuple[str, dict[str, Any]]] = {family: (family, {}) for family in FAMILIES} | WINDOWED
"""Every family; those with sliding windows also with one that is shorter than the text."""
N_NEW = 8
TEXTS = ["The server keeps a connection for 15 seconds. ", "A module that is not loaded costs nothing. "]
PROMPTS = ["The server", "A module that is not", "costs"]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def model(case: str, monkeypatch: pytest.MonkeyPatch) -> SkipLayerForCausalLM:
    """A routed model of the case, whose tokens skip about half of the layers that they may skip."""
    family, options = CASES[case]
    monkeypatch.setitem(FAMILIES, family, FAMILIES[family] | options)
    model = make_skip(family)
    model(tokens())
    logits = torch.stack(list(model.state.logits_BT.values())).flatten().sort().values
    model.set_threshold_logit(float(logits[len(logits) // 2 - 1 : len(logits) // 2 + 1].mean()))
    return model


def tokens(batch: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(5))


def write(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """Generate exactly N_NEW tokens per sequence; return them without the prompt.

    No token comes twice: left alone, random models with tied embeddings repeat one and hide every difference.
    """
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0} | options
    options |= {"no_repeat_ngram_size": 1}
    torch.manual_seed(3)
    out: torch.Tensor = model.generate(ids, max_new_tokens=N_NEW, min_new_tokens=N_NEW, **options)
    return out[:, ids.shape[1] :]


def left_padded(ids: torch.Tensor, n_pad: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Put padding before the first sequence and as many further real tokens before the others."""
    more = tokens(len(ids), n_pad)
    more[0] = 0
    mask = torch.ones(len(ids), n_pad + ids.shape[1], dtype=torch.long)
    mask[0, :n_pad] = 0
    return torch.cat([more, ids], 1), mask


HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 0.8},
}


@pytest.mark.parametrize("case", CASES)
class TestGenerate:
    """`generate()` of transformers, for every family."""

    @pytest.mark.parametrize("how", HOW)
    def test_cached_equals_uncached(self, model: SkipLayerForCausalLM, how: str) -> None:
        """Every way of choosing tokens gives the same text with the growing cache, a static one and none."""
        ids = tokens()
        expected = write(model, ids, use_cache=False, **HOW[how])

        assert torch.equal(write(model, ids, **HOW[how]), expected)
        assert torch.equal(write(model, ids, cache_implementation="static", **HOW[how]), expected)

    @pytest.mark.parametrize("cache", ["dynamic", "static"])
    def test_a_left_padded_batch_equals_single_texts(self, model: SkipLayerForCausalLM, cache: str) -> None:
        """A short text beside a longer one is continued as if it were alone."""
        ids = tokens()
        padded, mask = left_padded(ids)
        out = write(model, padded, attention_mask=mask, cache_implementation=cache)

        assert torch.equal(out[:1], write(model, ids[:1], cache_implementation=cache))
        assert torch.equal(out[1:], write(model, padded[1:], cache_implementation=cache))

    def test_the_text_depends_on_routing(self, model: SkipLayerForCausalLM) -> None:
        """At threshold 0 the text is the base model's; at 0.5 it is another one, so skipping took place."""
        ids = tokens()
        skipped = write(model, ids)
        model.set_threshold(0.0)
        base = make_base(model.config.text_config.model_type)

        assert torch.equal(write(model, ids), write(base, ids))
        assert not torch.equal(skipped, write(model, ids))

    def test_the_head_can_be_asked_for_the_last_position_only(self, model: SkipLayerForCausalLM) -> None:
        """`generate()` reads a prompt without vocabulary logits for all of it, which would fill the memory."""
        ids = tokens()

        assert model._supports_logits_to_keep()
        torch.testing.assert_close(
            model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:], atol=1e-4, rtol=0
        )  # the head's product has another shape, hence no bit-equality


def loud_skip(base: Any, **options: Any) -> SkipLayerForCausalLM:
    """Wrap a base model with random routers at threshold 0.5, all weights large enough to matter."""
    torch.manual_seed(0)
    for name, parameter in base.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if "norm" in name:
            parameter.data += 1.0
    model = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=4, always_run_first=1, **options))
    for _, unit in model.routed:
        torch.nn.init.normal_(unit.router.weight, std=0.5)
        unit.router.bias.data.zero_()
        torch.nn.init.normal_(unit.skip_path.up, std=0.3)
        torch.nn.init.normal_(unit.skip_path.down, std=0.3)
    model.set_threshold(0.5)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SkipLayer checkpoint of a tiny Llama, with a byte-level tokenizer beside it."""
    folder = save_base_folder(tmp_path_factory.mktemp("base"), TEXTS, vocab=300)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = loud_skip(AutoModelForCausalLM.from_pretrained(folder).eval())
    out = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def load(folder: Path, **options: Any) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval(), AutoTokenizer.from_pretrained(folder)


def continued(model: Any, tokenizer: Any, prompt: str, n_new: int = N_NEW) -> str:
    """Continue one prompt greedily, by passes over the whole text without any cache."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    n_prompt = ids.shape[1]
    for _ in range(n_new):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    text: str = tokenizer.decode(ids[0, n_prompt:], skip_special_tokens=True)
    return text


class TestAutoModel:
    """The folder of a checkpoint, as AutoModelForCausalLM sees it once `skipmodel.model` is imported."""

    def test_the_folder_holds_no_code_and_no_pickle(self, checkpoint: Path) -> None:
        """Weights as safetensors, everything else JSON; nothing asks to run code of the folder."""
        assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json"}
        assert "auto_map" not in json.loads((checkpoint / "config.json").read_text())

    def test_it_loads_by_its_registered_family(self, checkpoint: Path) -> None:
        """Configuration and model come back as the classes of this package, thresholds included."""
        assert isinstance(AutoConfig.from_pretrained(checkpoint), SkipLayerConfig)
        model, _ = load(checkpoint)

        assert isinstance(model, SkipLayerForCausalLM)
        assert model.config.threshold == 0.5
        assert len(model.routed) == 4

    def test_several_files_of_weights_are_one_model(self, checkpoint: Path, tmp_path: Path) -> None:
        """A large model is saved in shards; logits stay the same bit for bit."""
        model, _ = load(checkpoint)
        model.save_pretrained(tmp_path, max_shard_size="40KB")

        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        assert torch.equal(load_logits(tmp_path), model(tokens()).logits)

    def test_a_pickle_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        """Weights that could carry code are not read, by any of the ways to load."""
        (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
        torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")

        for loader in (AutoModelForCausalLM, SkipLayerForCausalLM):
            with pytest.raises(OSError, match=r"no file named model\.safetensors"):
                loader.from_pretrained(tmp_path)

    def test_bfloat16_is_kept_and_routers_stay_float32(self, checkpoint: Path, tmp_path: Path) -> None:
        """A rounded router decides otherwise near the threshold, so it is never rounded."""
        model, _ = load(checkpoint, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
        dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}

        assert {dtype for name, dtype in dtypes.items() if ".router." in name} == {torch.float32}
        assert {dtype for name, dtype in dtypes.items() if ".router." not in name} == {torch.bfloat16}


def load_logits(folder: Path) -> torch.Tensor:
    logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens()).logits
    return logits


OPTIONS = {"max_new_tokens": N_NEW, "do_sample": False, "return_full_text": False}


class TestPipeline:
    """`transformers.pipeline("text-generation")`."""

    def test_it_takes_a_model_object(self, checkpoint: Path) -> None:
        """One prompt is continued as passes over the whole text would."""
        model, tokenizer = load(checkpoint)
        out = pipeline("text-generation", model=model, tokenizer=tokenizer)(PROMPTS[0], **OPTIONS)

        assert out[0]["generated_text"] == continued(model, tokenizer, PROMPTS[0])

    def test_it_takes_a_folder_and_batches(self, checkpoint: Path) -> None:
        """Prompts of unequal length in one batch give what each gives alone."""
        model, tokenizer = load(checkpoint)
        write_text = pipeline("text-generation", model=str(checkpoint), tokenizer=str(checkpoint), device="cpu")
        out = write_text(PROMPTS, batch_size=len(PROMPTS), **OPTIONS)

        assert [row[0]["generated_text"] for row in out] == [continued(model, tokenizer, p) for p in PROMPTS]


class TestHarness:
    """`lm_eval.models.huggingface.HFLM` of EleutherAI's evaluation harness."""

    @pytest.fixture(params=["folder", "model"])
    def harness(self, request: pytest.FixtureRequest, checkpoint: Path) -> Any:
        """The harness on the folder, three texts at a time, and on the loaded model, one at a time."""
        lm = pytest.importorskip(
            "lm_eval.models.huggingface", reason="lm-eval is not installed; do: make env", exc_type=ImportError
        )
        if request.param == "folder":
            return lm.HFLM(pretrained=str(checkpoint), device="cpu", batch_size=3)
        model, tokenizer = load(checkpoint)
        return lm.HFLM(pretrained=model, tokenizer=tokenizer)

    @staticmethod
    def requests(kind: str, rows: list[tuple[Any, ...]]) -> list[Any]:
        from lm_eval.api.instance import Instance

        return [Instance(request_type=kind, doc={}, arguments=row, idx=i) for i, row in enumerate(rows)]

    @staticmethod
    def log_probs(model: Any, prefix: list[int], ids: list[int]) -> tuple[float, bool]:
        """Log-probability of `ids` after `prefix`, and whether each is the most likely one; one uncached pass."""
        logits = model(torch.tensor([prefix + ids]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        each = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        return float(each.sum()), bool((logits.argmax(-1) == torch.tensor(ids)).all())

    def test_loglikelihood(self, harness: Any, checkpoint: Path) -> None:
        """Continuations get the log-probability of one pass over the text, and the right greedy mark."""
        model, tokenizer = load(checkpoint)
        rows = [(p, f" {word}") for p, word in zip(PROMPTS, ("keeps a connection", "loaded", "nothing"), strict=True)]
        greedy = [(p, continued(model, tokenizer, p, 1)) for p in PROMPTS]
        expected = []
        for context, continuation in rows + greedy:
            prefix = tokenizer(context)["input_ids"]
            ids = tokenizer(context + continuation)["input_ids"]
            expected.append(self.log_probs(model, prefix, ids[len(prefix) :]))
        out = harness.loglikelihood(self.requests("loglikelihood", rows + greedy), disable_tqdm=True)

        assert [mark for _, mark in out] == [mark for _, mark in expected]
        assert {mark for _, mark in out} == {True, False}
        assert [value for value, _ in out] == pytest.approx([value for value, _ in expected], abs=1e-3)

    def test_loglikelihood_rolling(self, harness: Any, checkpoint: Path) -> None:
        """A whole text gets the log-probability of all of its tokens, the first one after the start token."""
        model, tokenizer = load(checkpoint)
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        expected = [self.log_probs(model, [tokenizer.bos_token_id], each)[0] for each in ids]
        out = harness.loglikelihood_rolling(
            self.requests("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True
        )

        assert out == pytest.approx(expected, abs=1e-3)

    def test_generate_until(self, harness: Any, checkpoint: Path) -> None:
        """Prompts, left-padded to one batch, are continued as each would be alone."""
        model, tokenizer = load(checkpoint)
        rows = [(prompt, {"until": ["\n\n"], "max_gen_toks": N_NEW, "do_sample": False}) for prompt in PROMPTS]
        out = harness.generate_until(self.requests("generate_until", rows), disable_tqdm=True)

        assert out == [continued(model, tokenizer, prompt).split("\n\n")[0] for prompt in PROMPTS]
