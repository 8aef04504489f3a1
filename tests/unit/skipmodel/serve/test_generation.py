"""generate() through the engine: transformers' answers, by other passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import pipeline

from skipmodel.engine.executor import Engine
from skipmodel.engine.generation import use_engine
from skipmodel.errors import ConfigError
from tests.tiny import ENGINE_FAMILIES, VOCAB, make_skip
from tests.unit.skipmodel.serve.helpers import make_model


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which passes of the engine run."""
    seen: list[str] = []
    for name in ("step", "hidden"):
        real = getattr(Engine, name)

        def noting(self: Any, *args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            seen.append(name)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Engine, name, noting)
    return seen


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_answers_are_those_of_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy, sampled and padded in a batch: the same tokens as without, and the engine ran them."""
    model = make_skip(family)
    ids = torch.randint(3, VOCAB, (1, 7), generator=torch.Generator().manual_seed(2))
    many = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(many)
    mask[0, :4], mask[2, :2] = 0, 0
    asked: list[dict[str, Any]] = [
        {"input_ids": ids, "do_sample": False}, {"input_ids": ids, "do_sample": True, "temperature": 0.8, "top_k": 20},
        {"input_ids": many, "attention_mask": mask, "do_sample": False},
    ]  # fmt: skip

    def answers() -> list[Any]:
        out = []
        for one in asked:
            torch.manual_seed(1)
            out.append(model.generate(**one, max_new_tokens=12, min_new_tokens=12, pad_token_id=0).tolist())
        return out

    expected = answers()
    seen = calls(monkeypatch)
    use_engine(model)
    assert answers() == expected
    assert seen.count("step") == 22
    assert seen.count("hidden") == 14
    model.set_threshold(0.0)
    with_dense = answers()
    use_engine(model, False)
    assert answers() == with_dense != expected


def test_what_it_does_not_serve_is_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams run as before; the engine is not asked."""
    model = make_skip()
    ids = torch.tensor([[5, 6, 7]])
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    seen = calls(monkeypatch)
    use_engine(model)
    assert torch.equal(model.generate(ids, **options), expected)
    assert seen == []


def test_a_pipeline_runs_unchanged(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text generation of transformers, long enough that the cache grows."""
    model, tokenizer = make_model(tmp_path)
    maker = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options: dict[str, Any] = {"max_new_tokens": 150, "do_sample": False, "return_full_text": False}
    expected = maker("The server", **options)
    seen = calls(monkeypatch)
    use_engine(model)
    assert maker("The server", **options) == expected
    assert "step" in seen


def test_a_model_without_an_engine_is_refused() -> None:
    """The message says why."""
    with pytest.raises(ConfigError, match="unit 'ffn'"):
        use_engine(make_skip(unit="ffn"))
