"""`python -m skipmodel loadtest`: the arguments, and the files of a load test. Loads without torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from skipmodel.bench.command import floats
from skipmodel.errors import MeasurementError
from skipmodel.serve.config import KEY_VARIABLE
from skipmodel.serve.loadtest import LoadPlan, records, run_load_test

PROMPTS: tuple[str, ...] = (
    "The configuration file is read once, when the server starts. To change a setting,",
    "設定ファイルはサーバーの起動時に読み込まれます。設定を変更するには、",
    "Access to a directory can be restricted by address or by name. In the example below,",
    "ログには、いつ、どこから、どのページが読まれたかが記録されます。",
)
"""Stand for any text; --prompts-file takes one's own, a line each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a load test of a running server can be told."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--model", default="skiplayer", help="name of the skip model; NAME-dense is its rival")
    parser.add_argument("--out", type=Path, required=True, help="records of the load test, for cost.load_test")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    add_load(parser)


def add_load(parser: argparse.ArgumentParser) -> None:
    """Add what is sent."""
    load = parser.add_argument_group("load test")
    load.add_argument("--rates", type=floats, default=(0.25, 0.5, 1.0, 2.0, 4.0), help="requests per second, rising")
    load.add_argument("--at", type=float, help="rate whose records are written; default: the skip model's knee")
    load.add_argument("--duration-s", type=float, default=60.0, help="seconds per rate and arm")
    load.add_argument("--warm-up-s", type=float, default=5.0, help="left out at the start of each")
    load.add_argument("--answer-tokens", type=int, default=32, help="length of every answer")
    load.add_argument("--prompts-file", type=Path, help="text file, a prompt per line")
    load.add_argument("--slo-ttft-s", type=float, default=2.0, help="promised time to the first token")
    load.add_argument("--slo-tpot-s", type=float, default=0.1, help="promised time per further token")
    load.add_argument("--share", type=float, default=0.9, help="of requests that must keep both, at the knee")
    load.add_argument("--device", help="name of the device in the records; default: this machine's")
    load.add_argument("--replicas", type=int, default=1, help="replicas behind the address")


def plan_of(arguments: argparse.Namespace) -> LoadPlan:
    """Return what the arguments ask for.

    Raises:
        MeasurementError: The prompts cannot be read, or the files not written.
    """
    prompts = PROMPTS
    if arguments.prompts_file is not None:
        try:
            prompts = tuple(filter(None, map(str.strip, arguments.prompts_file.read_text("utf-8").splitlines())))
        except (OSError, ValueError) as error:
            raise MeasurementError(
                f"--prompts-file: expected a text file in UTF-8, it cannot be read ({error})"
            ) from error
    if not arguments.out.parent.is_dir():
        folder = arguments.out.parent
        raise MeasurementError(f"--out: expected a file in an existing folder, {folder} is none; make it")
    if arguments.at is not None and arguments.at not in arguments.rates:
        raise MeasurementError(f"--at: expected one of the rates {arguments.rates}, got {arguments.at:g}")
    return LoadPlan(
        arguments.url, arguments.model, arguments.rates, arguments.duration_s, prompts, warm_up_s=arguments.warm_up_s,
        max_tokens=arguments.answer_tokens, slo_ttft_s=arguments.slo_ttft_s, slo_tpot_s=arguments.slo_tpot_s,
        share=arguments.share, key=os.environ.get(KEY_VARIABLE), seed=arguments.seed,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a load test, write its files, and return a summary.

    Raises:
        MeasurementError: No request was answered.
    """
    plan = plan_of(arguments)
    document = run_load_test(plan, _say)
    if not any(request.is_ok for _, request in document["sent"]):
        errors: list[str] = next((row["errors"] for row in document["rows"] if row["errors"]), [])
        told = "; ".join(errors) or "none was sent"
        raise MeasurementError(
            f"load test: expected answers from {plan.url}, all requests failed ({told}); "
            "start the server with skip-poc serve, or lengthen --duration-s"
        )
    rate = arguments.at or document["knee_per_s"]["skip"] or plan.rates_per_s[0]
    device = arguments.device or _device()
    written = records(plan, document, rate, device, arguments.replicas)
    arguments.out.write_text(json.dumps(written, ensure_ascii=False) + "\n", "utf-8")
    report = arguments.out.with_suffix(".rates.json")
    rows = {name: value for name, value in document.items() if name != "sent"}
    rows |= {"device_name": device, "records_of_per_s": rate}
    report.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return {"knee_per_s": document["knee_per_s"], "goodput_per_s": document["goodput_per_s"],
            "records": str(arguments.out), "records_of_per_s": rate, "report": str(report)}  # fmt: skip


def _device() -> str:
    from skipmodel.base import default_device
    from skipmodel.engine.calibration import hardware

    return str(hardware(default_device())["device_name"])


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
