"""Schemas of the request bodies: the part of OpenAI's API that is served, and what is ours.

Unknown names are refused: a setting that is silently ignored gives an answer that nobody asked for. Names that change
nothing here (`user`, `metadata`, ...) are accepted; those that ask for something else (`n` above 1, tools) are not.
"""

from __future__ import annotations

from typing import Any

MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_PROMPTS = 64
MAX_LOGPROBS = 20
MAX_TEXT = 1 << 20
_INT64 = 1 << 63


def _number(low: float, high: float, kind: str = "number", **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], "minimum": low, "maximum": high, **more}


_TEXT = {"type": "string", "maxLength": MAX_TEXT}
_IDS = {"type": "array", "minItems": 1, "maxItems": 1 << 17, "items": {"type": "integer", "minimum": 0, "maximum": 1 << 31}}  # fmt: skip  # noqa: E501
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
_IGNORED = {
    "user": {"type": ["string", "null"]},
    "metadata": {"type": ["object", "null"]},
    "store": {"type": ["boolean", "null"]},
    "service_tier": {"type": ["string", "null"]},
    "safety_identifier": {"type": ["string", "null"]},
    "prompt_cache_key": {"type": ["string", "null"]},
}
_COMMON: dict[str, Any] = {
    "model": {"type": "string", "maxLength": 256, "description": "name of /v1/models; the skip model if absent"},
    "max_tokens": _number(0, 1 << 20, "integer", description="longest answer, in tokens; the server's limit at most"),
    "max_completion_tokens": _number(0, 1 << 20, "integer", description="new name of max_tokens"),
    "temperature": _number(0, 2, description="0 takes the likeliest token"),
    "top_p": _number(0, 1),
    "seed": _number(-_INT64, _INT64 - 1, "integer", description="same request and seed, same answer"),
    "n": _number(1, 1, "integer", description="one answer per prompt"),
    "presence_penalty": _number(0, 0, description="only 0"),
    "frequency_penalty": _number(0, 0, description="only 0"),
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {
            "include_usage": {"type": ["boolean", "null"]},
            "continuous_usage_stats": {"type": ["boolean", "null"]},
            "include_obfuscation": {"type": ["boolean", "null"]},
        },
        "additionalProperties": False,
    },
    "stop": {"anyOf": [{"type": "null"}, _STOP, {"type": "array", "maxItems": MAX_STOPS, "items": _STOP}]},
    "ignore_eos": {"type": ["boolean", "null"], "description": "write on behind the end of the answer"},
    "skip_level": _number(0, 1, description="0 skips nothing, 1 all that guards leave free; absent: as configured"),
    "skip_threshold": _number(0, 1, description="execute at this probability and above, instead of skip_level"),
    "skip_lossless": {
        "type": ["boolean", "null"],
        "description": "the skip model drafts, the dense one verifies: the dense answer",
    },
    "skip_always": {"type": ["boolean", "null"], "description": "skip even where the engagement rule would not"},
    "skip_details": {"type": ["boolean", "null"], "description": "tell the skipped layers of every token"},
    **_IGNORED,
}
COMPLETION: dict[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {
            "anyOf": [
                _TEXT,
                {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _TEXT},
                _IDS,
                {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _IDS},
            ],
            "description": "text or token ids, or several of them",
        },
        "logprobs": _number(0, MAX_LOGPROBS, "integer", description="likeliest tokens told beside each one"),
        "echo": {"type": ["boolean", "null"], "description": "the prompt stands before the answer"},
        "best_of": _number(1, 1, "integer"),
        "suffix": {"type": "null"},
        "logit_bias": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        **_COMMON,
    },
    "additionalProperties": False,
}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"type": "string", "enum": ["text"]}, "text": _TEXT},
    "additionalProperties": False,
}
CHAT: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1000,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]},
                    "content": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": 64, "items": _PART}]},
                    "name": {"type": ["string", "null"]},
                    "refusal": {"type": "null"},
                },
                "additionalProperties": False,
            },
        },
        "logprobs": {"type": ["boolean", "null"]},
        "top_logprobs": _number(0, MAX_LOGPROBS, "integer"),
        "response_format": {
            "type": ["object", "null"],
            "properties": {"type": {"type": "string", "enum": ["text"]}},
            "required": ["type"],
            "additionalProperties": False,
        },
        "tools": {"type": ["array", "null"], "maxItems": 0, "items": {}},
        "logit_bias": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        **_COMMON,
    },
    "additionalProperties": False,
}
