"""From a checked request body to what the scheduler is asked: one `Ask` per prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipmodel.errors import ConfigError
from skipmodel.serve.bodies import MAX_STOPS
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.errors import RequestError
from skipmodel.serve.sequence import Ask
from skipmodel.serve.served import Served

COMPLETION_TOKENS = 16
"""Length of an answer that names none, as in OpenAI's completions; a chat answer may fill the context."""
ARMS = ("", "-dense", "-lossless")
"""What follows the model's name in requests, for clients that cannot send skip_level: skip, dense, lossless."""


@dataclass(frozen=True)
class Query:
    """A request: its prompts, and how the answer is told."""

    asks: tuple[Ask, ...]
    model: str
    streams: bool
    tells_usage: bool
    tells_usage_always: bool
    tells_skips: bool


def read_query(body: Mapping[str, Any], served: Served, config: ServeConfig, *, is_chat: bool) -> Query:
    """Turn a body that fits its schema into what is asked.

    Raises:
        RequestError: It names another model, contradicts itself, or its prompt does not fit.
    """
    values = {name: value for name, value in body.items() if value is not None}
    model = values.get("model", config.name)
    if model not in model_names(config):
        raise RequestError(404, f"model: expected one of {', '.join(model_names(config))}, got {model[:60]!r}",
                           param="model", code="model_not_found")  # fmt: skip
    arm = model.removeprefix(config.name)
    logit = _threshold(values, served, arm)
    is_lossless = values.get("skip_lossless", arm == "-lossless")
    prompts = [_chat_ids(values, served)] if is_chat else _prompt_ids(values["prompt"], served)
    options = values.get("stream_options", {})
    asks = []
    for ids in prompts:
        n_prompt = len(ids)
        if n_prompt > config.context - 1:
            raise RequestError(400, f"prompt: expected at most {config.context - 1} tokens, got {n_prompt}",
                               param="messages" if is_chat else "prompt", code="context_length_exceeded")  # fmt: skip
        batch = config.slots
        by_rule = (logit, logit)
        if not is_lossless and not values.get("skip_always", False):
            by_rule = served.engaged(logit, n_prompt, batch)
        top, is_on = values.get("top_logprobs"), values.get("logprobs")
        n_logprobs = (top or 0 if is_on or top else None) if is_chat else is_on
        asks.append(
            Ask(
                prompt_ids=tuple(ids), max_tokens=_max_tokens(values, config, n_prompt, is_chat),
                temperature=float(values.get("temperature", 1.0)), top_p=float(values.get("top_p", 1.0)),
                seed=None if "seed" not in values else int(values["seed"]), stops=_stops(values),
                n_logprobs=None if n_logprobs is None else int(n_logprobs), echoes=values.get("echo", False),
                ignores_eos=values.get("ignore_eos", False), prefill_logit=by_rule[0], threshold_logit=by_rule[1],
                is_lossless=is_lossless,
            )
        )  # fmt: skip
    return Query(
        tuple(asks), model, values.get("stream", False), bool(options.get("include_usage")),
        bool(options.get("continuous_usage_stats")), values.get("skip_details", False),
    )  # fmt: skip


def model_names(config: ServeConfig) -> list[str]:
    """Return the names that requests may use."""
    return [config.name + arm for arm in ARMS]


def _threshold(values: Mapping[str, Any], served: Served, arm: str) -> float:
    level, threshold = values.get("skip_level"), values.get("skip_threshold")
    if level is not None and threshold is not None:
        raise RequestError(400, "skip_level: expected this or skip_threshold, got both; leave one out",
                           param="skip_level")  # fmt: skip
    if arm == "-dense" and level is None and threshold is None:
        return -math.inf
    try:
        return served.logit(level, threshold)
    except ConfigError as error:
        raise RequestError(400, f"skip_level: {error}", param="skip_level") from error


def _stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    stop = values.get("stop", [])
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise AssertionError("the schema limits stop strings")
    return stops


def _max_tokens(values: Mapping[str, Any], config: ServeConfig, n_prompt: int, is_chat: bool) -> int:
    room = config.context - n_prompt
    asked = values.get("max_completion_tokens", values.get("max_tokens"))
    if asked is None:
        return min(room, config.max_tokens if is_chat else COMPLETION_TOKENS)
    if asked == 0 and not values.get("echo"):
        raise RequestError(400, "max_tokens: expected 1 or more, got 0; 0 is for echo alone", param="max_tokens")
    return min(int(asked), room, config.max_tokens)  # load generators ask for thousands and mean: to the end


def _prompt_ids(prompt: Any, served: Served) -> list[list[int]]:
    many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int | float) else [prompt]
    return [_ids(one, served) for one in many]


def _ids(prompt: Any, served: Served) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = served.tokenizer(prompt)["input_ids"]
        start = served.tokenizer.bos_token_id
        if not ids and start is None:
            raise RequestError(400, "prompt: expected text, got none", param="prompt")
        return ids or [start]
    n_known = len(served.engine.weights.embedding)
    wrong = next((token for token in prompt if token >= n_known), None)
    if wrong is not None:
        raise RequestError(400, f"prompt: expected token ids below {n_known}, got {int(wrong)}", param="prompt")
    return [int(token) for token in prompt]


def _chat_ids(values: Mapping[str, Any], served: Served) -> list[int]:
    if not getattr(served.tokenizer, "chat_template", None):
        raise RequestError(400, "messages: this model has no chat template; send a prompt to /v1/completions",
                           param="messages", code="no_chat_template")  # fmt: skip
    messages = []
    for message in values["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        role = "system" if message["role"] == "developer" else message["role"]
        messages.append({"role": role, "content": text})
    try:
        text = served.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like, jinja2's errors among it
        raise RequestError(400, f"messages: the model's chat template refuses them ({str(error)[:200]})",
                           param="messages") from error  # fmt: skip
    ids: list[int] = served.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise RequestError(400, "messages: the model's chat template makes no text of them", param="messages")
    return ids
