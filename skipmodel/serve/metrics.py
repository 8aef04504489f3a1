"""Counters of the server in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

_WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

COUNTERS = {
    "requests_total": "Answers by outcome.",
    "prompt_tokens_total": "Prompt tokens read.",
    "generated_tokens_total": "Tokens written.",
    "layer_executions_total": "Layers of generated tokens, executed or skipped.",
    "fallbacks_total": "Answers that went on densely because their skip rate left the band.",
    "rule_total": "Answers for which the engagement rule was asked, by phase and decision.",
    "draft_tokens_total": "Tokens drafted in lossless mode, accepted or rejected.",
    "disconnects_total": "Clients that left before their answer was whole.",
    "refused_total": "Requests refused before they were queued, by status.",
}
GAUGES = {
    "active_sequences": "Answers being written.",
    "queued_sequences": "Requests waiting for a slot.",
    "slots": "Answers that can be written at once.",
    "skip_rate": "Share of the layer executions of generated tokens that were skipped, since the start.",
}
HISTOGRAMS = {
    "ttft_seconds": ("From the request to the first token.", _WAITS_S),
    "tpot_seconds": ("Per further token of an answer.", _STEPS_S),
    "queue_seconds": ("From the request to its slot.", _WAITS_S),
    "request_seconds": ("From the request to the end of its answer.", _WAITS_S),
}
PREFIX = "skip_poc_"


class Metrics:
    """All counters; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._seen: dict[str, list[int]] = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in HISTOGRAMS.items()}
        self._sums: dict[str, float] = dict.fromkeys(HISTOGRAMS, 0.0)

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + value

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, ()] = value

    def observe(self, name: str, seconds: float) -> None:
        """Put a time into a histogram."""
        with self._lock:
            self._seen[name][bisect_left(HISTOGRAMS[name][1], seconds)] += 1
            self._sums[name] += seconds

    def value(self, name: str, **labels: str) -> float:
        """Return a counter or gauge; 0 where nothing was added."""
        with self._lock:
            return self._values.get((name, tuple(sorted(labels.items()))), 0.0)

    def text(self) -> str:
        """Return everything in Prometheus' text format, version 0.0.4."""
        with self._lock:
            values = sorted(self._values.items())
            seen = {name: list(counts) for name, counts in self._seen.items()}
            sums = dict(self._sums)
        executed = sum(v for (name, labels), v in values if name == "layer_executions_total" and labels[0][1] == "run")
        skipped = sum(v for (name, labels), v in values if name == "layer_executions_total" and labels[0][1] == "skip")
        lines = []
        for kind, described in (("counter", COUNTERS), ("gauge", GAUGES)):
            for name, meaning in described.items():
                lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
                found = [(labels, value) for (key, labels), value in values if key == name]
                if name == "skip_rate":
                    found = [((), skipped / (executed + skipped) if executed + skipped else 0.0)]
                lines += [f"{PREFIX}{name}{_labels(labels)} {value:.17g}" for labels, value in found or [((), 0.0)]]
        for name, (meaning, bounds) in HISTOGRAMS.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} histogram"]
            total = 0
            for bound, count in zip((*bounds, float("inf")), seen[name], strict=True):
                total += count
                told = "+Inf" if bound == float("inf") else f"{bound:g}"
                lines.append(f'{PREFIX}{name}_bucket{{le="{told}"}} {total}')
            lines += [f"{PREFIX}{name}_sum {sums[name]:.9g}", f"{PREFIX}{name}_count {total}"]
        return "\n".join(lines) + "\n"


def _labels(pairs: Sequence[tuple[str, str]]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in pairs) + "}" if pairs else ""
