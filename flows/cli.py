"""Command line `skip-poc`: run, check, compare, bench, serve, report, decide, and what `--help` lists beside them.

runs, gc, deliver and doctor are in flows/cli_house.py.

Errors that a person can put right end in one message on stderr and exit code 2, Ctrl-C in 130; a traceback
means a defect.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flows import runtime
from flows.cli_house import add_housekeeping
from flows.errors import EXIT_CODE, PocError
from flows.progress import Progress
from flows.settings import base_source, load_settings, plan_sha256, write_schema
from kpis.errors import KpiError
from reports.errors import ReportError
from skipmodel.bench.command import floats
from skipmodel.errors import SkipModelError

if TYPE_CHECKING:
    from flows.workbench import Workbench

PROFILES = ("auto", "quick", "standard", "full")
EXIT_INTERRUPTED = 130
EXIT_DIFFERENT = 1
"""`decide` did not reproduce the stored result, or was asked to decide by something else than the plan."""


Command: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except KeyboardInterrupt:
        _tell("\ninterrupted; finished stages are kept, the same command goes on from there")
        return EXIT_INTERRUPTED
    except (PocError, SkipModelError, KpiError, ReportError) as error:
        _tell(f"error: {error}")
        return EXIT_CODE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _tell(f"error: the disk is full ({error})\n  do: free some space and run the same command again; "
              "finished stages are kept")  # fmt: skip
        return EXIT_CODE


def _run(arguments: argparse.Namespace) -> int:
    from flows.check import check_inputs

    settings = load_settings(arguments.config, arguments.profile)
    # a bad input is told at once, not after the training
    check_inputs(settings, arguments.config)
    # before the flow is imported: prefect, mlflow and transformers read the environment at import
    runtime.prepare(arguments.runs_dir, base_source=base_source(settings, arguments.config))
    from flows.unchanged import finished_run

    progress = Progress(quiet=arguments.quiet)
    if finished_run(settings, arguments.config, arguments.runs_dir, progress) is None:
        from flows.poc import run_poc

        run_poc(arguments.config, arguments.profile, arguments.runs_dir, progress)
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from flows.starter import copy_sample

    settings_path = copy_sample(arguments.folder)
    _say(f"{settings_path.parent} is a complete PoC; replace its texts, glossary and questions by yours, then\n"
         f"  skip-poc check -c {settings_path}\n  skip-poc run -c {settings_path}")  # fmt: skip
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from flows.check import examine
    from flows.check_text import describe

    settings = load_settings(arguments.config, arguments.profile)
    with Progress(quiet=arguments.quiet).stage("read documents") as hook:
        found = examine(settings, arguments.config, lambda done: hook(done.n_bytes, done.of_bytes, done.text()))
    headline = f"{len(found.problems)} problems, see below" if found.problems else "settings and inputs are usable"
    lines = [*describe(found, settings), f"plan: {plan_sha256(settings)}"]
    _say("\n  ".join([f"{arguments.config}: {headline}", *lines]))
    for warning in found.warnings:
        _tell(f"warning: {warning}")
    for problem in found.problems:
        _tell(f"error: {problem}")
    return EXIT_CODE if found.problems else 0


def _terms(arguments: argparse.Namespace) -> int:
    from flows.terms_command import write_term_draft

    bench = _bench(arguments)
    _say(write_term_draft(bench, arguments.out, arguments.n, arguments.background or bench.background))
    return 0


def _questions(arguments: argparse.Namespace) -> int:
    from flows.terms_command import write_question_draft

    _say(write_question_draft(_bench(arguments), arguments.out, arguments.n))
    return 0


def _bench(arguments: argparse.Namespace) -> Workbench:
    from flows.check import check_inputs
    from flows.store import Store
    from flows.workbench import Workbench

    settings = load_settings(arguments.config, arguments.profile)
    check_inputs(settings, arguments.config)
    store = Store(arguments.runs_dir / "store")
    return Workbench(settings, arguments.config, store, Progress(quiet=arguments.quiet))


def _compare(arguments: argparse.Namespace) -> int:
    from flows.check import check_inputs
    from skipmodel.config_compare import METHODS, CompareConfig

    chosen: dict[str, Any] = {
        "methods": METHODS if arguments.methods is None else tuple(arguments.methods.split(",")),
        "steps": arguments.steps,
        "heal_per_rate": arguments.heal_per_rate,
    }
    if arguments.seeds is not None:
        chosen["seeds"] = arguments.seeds
    if arguments.skip_rates is not None:
        chosen["skip_rates"] = arguments.skip_rates
    config = CompareConfig(**chosen)
    settings = load_settings(arguments.config, arguments.profile)
    check_inputs(settings, arguments.config)
    runtime.prepare(arguments.runs_dir, base_source=base_source(settings, arguments.config))
    from flows.compare import run_compare
    from flows.compare_table import text_table

    out = arguments.out or arguments.runs_dir / "compare"
    compared = run_compare(arguments.config, arguments.profile, arguments.runs_dir, out, config,
                           Progress(quiet=arguments.quiet), arguments.history)  # fmt: skip
    _say(f"{text_table(compared['rows'])}\n{out / 'compare.json'}")
    return 0


def _bench_model(arguments: argparse.Namespace) -> int:
    from skipmodel.bench.command import config_of

    config = config_of(arguments)
    runtime.prepare(arguments.runs_dir)
    from flows.bench import FILE, find_target, run_bench

    target = find_target(arguments.folder, arguments.runs_dir, documents=arguments.documents,
                         threshold=arguments.threshold, level=arguments.level)  # fmt: skip
    out = arguments.out or arguments.runs_dir / "bench" / target.name
    if arguments.serve:
        from flows.serve import load_test

        _say(str(load_test(target, arguments, out / "load_test.json")))
        return 0
    run_bench(target, config, out, Progress(quiet=arguments.quiet), calibrations=arguments.calibrations,
              history=arguments.history)  # fmt: skip
    _say(str(out / FILE))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from skipmodel.serve.command import config_of

    config = config_of(arguments, has_demo=arguments.has_demo)
    runtime.prepare(arguments.runs_dir)
    from flows.serve import serve

    return serve(arguments.folder, arguments.runs_dir, config, threshold=arguments.threshold, level=arguments.level,
                 say=_say, is_demo=arguments.has_demo)  # fmt: skip


def _report(arguments: argparse.Namespace) -> int:
    from flows import report_command

    for path in report_command.run(arguments):
        _say(str(path))
    return 0


def _decide(arguments: argparse.Namespace) -> int:
    from flows import decide_text
    from flows.decide import decide

    decision = decide(arguments.run_dir, arguments.config, prices=arguments.prices, on=arguments.on)
    _say(decide_text.text(decision))
    for path in () if arguments.out is None else decide_text.write(decision, arguments.out):
        _say(str(path))
    return 0 if decision.is_same else EXIT_DIFFERENT


def _simulate(arguments: argparse.Namespace) -> int:
    from flows.simulate import run_simulation

    run_simulation(arguments.n, arguments.seed, _say, (lambda _: None) if arguments.quiet else _tell)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    _say(str(write_schema()))
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    runtime.prepare(arguments.runs_dir)
    from flows.servers import serve_until_interrupted

    return serve_until_interrupted(arguments.runs_dir, arguments.mlflow_port, arguments.prefect_port, _say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skip-poc", description="Decide whether token-level layer skipping pays on your own text."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_what_computes(commands)
    _add_bench(commands)
    _add_serve(commands)
    _add_what_reads_results(commands)
    add_housekeeping(commands, _add, _add_runs_dir)
    return parser


def _add(commands: Commands, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=command)
    return sub


def _add_quiet(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--quiet", action="store_true", help="no progress lines")


def _add_config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-c", "--config", type=Path, required=True, help="settings file, such as poc.yaml")
    sub.add_argument("--profile", choices=PROFILES, help="budget, when the settings file says auto")


def _add_runs_dir(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of all runs")


def _add_what_computes(commands: Commands) -> None:
    run = _add(commands, "run", _run, "run the whole PoC; an interrupted run goes on where it stopped")
    _add_config(run)
    _add_runs_dir(run)
    _add_quiet(run)

    init = _add(commands, "init", _init, "make a folder to start from: the sample PoC, complete and runnable")
    init.add_argument("folder", type=Path, help="a new or empty folder")

    check = _add(commands, "check", _check, "a dry run: what would be read, what is wrong, what the run would take")
    _add_config(check)
    _add_quiet(check)

    terms = _add(
        commands, "terms", _terms, "propose critical terms of the documents, as a glossary for a domain expert to edit"
    )
    terms.add_argument("--out", type=Path, required=True, help="CSV file to write; it must not be there yet")
    terms.add_argument("--n", type=int, default=300, help="proposals per language; default: 300")
    terms.add_argument("--background", help="general text to contrast with; default: corpus.background")
    questions = _add(
        commands, "questions", _questions, "make question items from held-out documents, for whoever has none"
    )
    questions.add_argument("--out", type=Path, required=True, help="JSON Lines file to write; not there yet")
    questions.add_argument("--n", type=int, help="facts for the test; default: what the registered margin takes")
    for draft in (terms, questions):
        _add_config(draft)
        _add_runs_dir(draft)
        _add_quiet(draft)

    compare = _add(
        commands,
        "compare",
        _compare,
        "train and judge every honest control beside the SkipLayer model, on validation text",
    )
    _add_config(compare)
    _add_runs_dir(compare)
    compare.add_argument("--out", type=Path, help="folder of compare.json and its figures; default: RUNS_DIR/compare")
    compare.add_argument("--methods", help="methods to compare, separated by commas; default: all")
    compare.add_argument("--seeds", type=int, help="trainings of each method; default: 3")
    compare.add_argument("--steps", type=int, help="steps of every training; default: model.skip_tune.steps")
    compare.add_argument("--skip-rates", type=floats, help="shares of all layer executions, such as 0.05,0.1,0.2")
    compare.add_argument("--heal-per-rate", action="store_true", help="train dropped layers apart for each number")
    compare.add_argument("--history", type=Path, help="folder for the reference file of this date and commit")
    _add_quiet(compare)


def _add_bench(commands: Commands) -> None:
    from skipmodel.bench.command import add_arguments
    from skipmodel.serve.loadtest_command import add_load

    bench = _add(commands, "bench", _bench_model, "time dense against skip in pairs: a finished run, or a checkpoint")
    bench.add_argument("folder", type=Path, help="run folder, such as runs/latest, or checkpoint folder")
    bench.add_argument("--threshold", type=float, help="threshold of the learned routing; default: the chosen one")
    bench.add_argument("--out", type=Path, help="folder of bench.json and bench.svg; default: RUNS_DIR/bench/NAME")
    bench.add_argument("--history", type=Path, help="folder for the reference file of this date, commit and device")
    add_arguments(bench)
    bench.add_argument("--serve", action="store_true", help="load test of the served model instead, at rising rates")
    add_load(bench)
    _add_runs_dir(bench)
    _add_quiet(bench)


def _add_serve(commands: Commands) -> None:
    from skipmodel.serve.command import add_arguments

    for name, has_demo, text in (
        ("serve", False, "serve a finished run or a checkpoint over HTTP, OpenAI-compatible; Ctrl-C stops it"),
        ("demo", True, "one local page that shows which tokens skip which layers, beside the dense answer"),
    ):
        sub = _add(commands, name, _serve, text)
        sub.add_argument("folder", type=Path, help="run folder, such as runs/latest, or checkpoint folder")
        sub.set_defaults(has_demo=has_demo)
        add_arguments(sub)
        _add_runs_dir(sub)


def _add_what_reads_results(commands: Commands) -> None:
    from flows.report_command import add_arguments

    add_arguments(_add(commands, "report", _report, "write report, summary and PDF of a finished run, or compare runs"))

    decide = _add(
        commands, "decide", _decide, "compute the verdict of a finished run again from its records, without a model"
    )
    decide.add_argument("run_dir", type=Path, help="run folder, such as runs/latest")
    decide.add_argument("-c", "--config", type=Path, help="settings to decide by; what departs from the plan is told")
    decide.add_argument("--prices", type=Path, help="price file to decide by")
    decide.add_argument("--on", type=_day, help="day on which the age of prices is judged, YYYY-MM-DD")
    decide.add_argument("--out", type=Path, help="another folder, for decision.json and the recomputed result.json")

    simulate = _add(
        commands, "simulate", _simulate, "hold the decision rule against simulated PoCs whose truth is known"
    )
    simulate.add_argument("--n", type=int, default=2000, help="PoCs with the truth at each limit; default: 2000")
    simulate.add_argument("--seed", type=int, default=1, help="seed of all draws; default: 1")
    _add_quiet(simulate)

    _add(commands, "schema", _schema, "write the JSON schema of the settings file")

    ui = _add(commands, "ui", _ui, "open MLflow and Prefect on this machine's loopback address; Ctrl-C stops both")
    _add_runs_dir(ui)
    ui.add_argument("--mlflow-port", type=int, default=5000, help="port of the MLflow page")
    ui.add_argument("--prefect-port", type=int, default=4200, help="port of the Prefect page")


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a day as YYYY-MM-DD, got {text!r}") from None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
