"""Load test of a running server: requests at random times that do not wait for answers, at rising rates.

Open loop: arrivals are a Poisson process drawn before the test, so that a slow server meets the same load as a fast
one and its queue grows. Dense and skip are tested one after the other at every rate, with the same arrivals and the
same prompts.

The knee is the highest rate at which the promises still hold for most requests and the answers keep up with the
arrivals, before the first rate at which they do not.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from skipmodel.errors import MeasurementError

ARMS = ("dense", "skip")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LoadPlan:
    """What is sent.

    Attributes:
        url: Of the server, such as http://127.0.0.1:8000.
        model: Name of the skip model; `-dense` is appended for the other arm.
        rates_per_s: Requests per second, rising.
        duration_s: Length of each rate, warm-up included. [s]
        warm_up_s: Requests sent before this are left out of the records. [s]
        prompts: Texts, taken in turn.
        max_tokens: Length of every answer.
        slo_ttft_s, slo_tpot_s: Promised times, for the knee. [s]
        share: Of requests that must keep both promises at the knee.
        timeout_s: A request without an answer for so long has failed. [s]
        key: Of the server.
        seed: Of the arrivals.
        stops_at_knee: Leave out the rates behind the first one that an arm does not keep.
    """

    url: str
    model: str
    rates_per_s: tuple[float, ...]
    duration_s: float
    prompts: tuple[str, ...]
    warm_up_s: float = 0.0
    max_tokens: int = 32
    slo_ttft_s: float = 2.0
    slo_tpot_s: float = 0.1
    share: float = 0.9
    timeout_s: float = 120.0
    key: str | None = None
    seed: int = 0
    stops_at_knee: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no load test.

        Raises:
            MeasurementError: Rates that do not rise, no prompts, or no time behind the warm-up.
        """
        rises = all(a < b for a, b in zip(self.rates_per_s, self.rates_per_s[1:], strict=False))
        if not self.rates_per_s or not rises or self.rates_per_s[0] <= 0:
            raise MeasurementError(f"--rates: expected rising rates above 0, got {self.rates_per_s}")
        if not self.prompts:
            raise MeasurementError("load test: expected at least one prompt, got none")
        if not 0 <= self.warm_up_s < self.duration_s:
            raise MeasurementError(
                f"--warm-up-s: expected 0 s to less than the {self.duration_s:g} s of a rate, got {self.warm_up_s:g}"
            )


@dataclass
class Sent:
    """One request. Times are in seconds from the start of its rate; None where it failed."""

    arm: str
    arrival_s: float
    late_s: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    end_s: float | None = None
    n_tokens: int = 0
    error: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.error is None and self.ttft_s is not None

    def keeps(self, plan: LoadPlan) -> bool:
        """Tell whether both promises were kept."""
        if self.ttft_s is None or self.tpot_s is None or not self.is_ok:
            return False
        return self.ttft_s <= plan.slo_ttft_s and self.tpot_s <= plan.slo_tpot_s


def arrivals(rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Draw the times of a Poisson process: independent exponential gaps with mean 1 / rate."""
    draws, at, times = random.Random(f"{seed}/{rate_per_s}"), 0.0, []
    while (at := at + draws.expovariate(rate_per_s)) < duration_s:
        times.append(at)
    return times


def run_load_test(plan: LoadPlan, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Run all rates and return the document: rows per rate and arm, the knees, and the records of all requests."""
    rows: list[dict[str, Any]] = []
    sent: dict[tuple[str, float], list[Sent]] = {}
    open_arms = list(ARMS)
    for rate in plan.rates_per_s:
        for arm in list(open_arms):
            requests = run_rate(plan, arm, rate)
            sent[arm, rate] = requests
            rows.append(row_of(plan, arm, rate, requests))
            tell(f"{arm} {rate:g}/s: {rows[-1]['n']} requests, within the promises {rows[-1]['within_slo']:.0%}")
            if plan.stops_at_knee and not rows[-1]["holds"]:
                open_arms.remove(arm)
    return {
        "schema_version": SCHEMA_VERSION,
        "slo": {"ttft_s": plan.slo_ttft_s, "tpot_s": plan.slo_tpot_s, "share": plan.share},
        "knee_per_s": {arm: knee(rows, arm) for arm in ARMS},
        "goodput_per_s": {
            arm: max((row["goodput_per_s"] for row in rows if row["arm"] == arm), default=0.0) for arm in ARMS
        },
        "rows": rows,
        "sent": [(rate, request) for (_, rate), requests in sent.items() for request in requests],
    }


def knee(rows: Sequence[dict[str, Any]], arm: str) -> float | None:
    """Return the highest rate that holds before the first that does not; None if even the lowest does not."""
    best = None
    for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["rate_per_s"]):
        if not row["holds"]:
            break
        best = row["rate_per_s"]
    return best


def row_of(plan: LoadPlan, arm: str, rate: float, requests: Sequence[Sent]) -> dict[str, Any]:
    """Summarise one rate of one arm."""
    counted = [request for request in requests if request.arrival_s >= plan.warm_up_s]
    kept = sum(request.keeps(plan) for request in counted)
    ends = [request.end_s for request in counted if request.end_s is not None]
    window_s = plan.duration_s - plan.warm_up_s
    share = kept / len(counted) if counted else 0.0
    answered = [request for request in counted if request.is_ok]
    return {
        "arm": arm, "rate_per_s": rate, "n": len(counted), "n_failed": len(counted) - len(answered),
        "within_slo": share, "goodput_per_s": kept / window_s, "holds": share >= plan.share and bool(counted),
        "ttft_p50_s": _quantile([r.ttft_s for r in answered], 0.5),
        "ttft_p90_s": _quantile([r.ttft_s for r in answered], 0.9),
        "tpot_p50_s": _quantile([r.tpot_s for r in answered], 0.5),
        "tokens_per_s": sum(r.n_tokens for r in answered) / max([window_s, *(end - plan.warm_up_s for end in ends)]),
        "latest_s": max((request.late_s for request in counted), default=0.0),
        "errors": sorted({request.error for request in counted if request.error is not None})[:3],
    }  # fmt: skip


def records(
    plan: LoadPlan, document: dict[str, Any], rate_per_s: float, device_name: str, n_replicas: int = 1
) -> dict[str, Any]:  # fmt: skip
    """Return the load-test records of one rate, in the form that a PoC's plan takes (`cost.load_test`)."""
    chosen = [request for rate, request in document["sent"] if rate == rate_per_s]
    rows = [
        {"arm": request.arm, "arrival_s": request.arrival_s, "ttft_s": request.ttft_s if request.is_ok else None,
         "tpot_s": request.tpot_s if request.is_ok else None, "ok": request.is_ok}
        for request in chosen if request.arrival_s >= plan.warm_up_s
    ]  # fmt: skip
    return {"schema_version": SCHEMA_VERSION, "device_name": device_name, "n_replicas": n_replicas, "requests": rows}


def run_rate(plan: LoadPlan, arm: str, rate_per_s: float) -> list[Sent]:
    """Send the requests of one rate to one arm on time, and return them when all are answered or have failed."""
    requests = [Sent(arm, at) for at in arrivals(rate_per_s, plan.duration_s, plan.seed)]
    start = time.perf_counter()
    threads = []
    for number, request in enumerate(requests):
        time.sleep(max(0.0, start + request.arrival_s - time.perf_counter()))
        request.late_s = time.perf_counter() - start - request.arrival_s
        prompt = plan.prompts[number % len(plan.prompts)]
        threads.append(threading.Thread(target=_send, args=(plan, request, prompt, start), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return requests


def _send(plan: LoadPlan, request: Sent, prompt: str, start: float) -> None:
    body = {"model": plan.model + ("-dense" if request.arm == "dense" else ""), "prompt": prompt, "temperature": 0,
            "max_tokens": plan.max_tokens, "ignore_eos": True, "stream": True, "skip_details": True}  # fmt: skip
    try:
        marks = stream_marks(plan, body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        request.error = f"{type(error).__name__}: {error}"[:200]
        return
    request.end_s = time.perf_counter() - start
    request.n_tokens = len(marks)
    if not marks:
        request.error = "no token came"
        return
    # from the planned time: what the sender was late is the server's time too
    request.ttft_s = max(0.0, marks[0] - start - request.arrival_s)
    request.tpot_s = (marks[-1] - marks[0]) / (len(marks) - 1) if len(marks) > 1 else 0.0


def stream_marks(plan: LoadPlan, body: dict[str, Any]) -> list[float]:
    """Send one streaming request; return the time of every token.

    Raises:
        ValueError: The server refused it or broke off.
    """
    parts = urlsplit(plan.url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port or (443 if secure else 80), timeout=plan.timeout_s)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if plan.key:
        headers["Authorization"] = f"Bearer {plan.key}"
    marks: list[float] = []
    try:
        connection.request("POST", parts.path.rstrip("/") + "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {answer.read(300).decode('utf-8', 'replace')}")
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                return marks
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise ValueError(chunk["error"]["message"])
            n_tokens = sum(len(choice.get("skipped_layers", ())) for choice in chunk["choices"])
            marks += [time.perf_counter()] * n_tokens
    finally:
        connection.close()
    raise ValueError("the stream ended before [DONE]")


def _quantile(values: Sequence[float | None], share: float) -> float | None:
    ordered = sorted(value for value in values if value is not None)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
