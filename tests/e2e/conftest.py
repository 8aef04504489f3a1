"""A tiny PoC that runs in seconds: real stages, real text, a random six-layer model."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.report_pages import chromium
from tests.tiny import save_base_folder

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "flows" / "sample"
GUARD = Path(__file__).with_name("guard")
CLI_TIMEOUT_S = 240

EN = (
    "custom-error",
    "dns-caveats",
    "handler",
    "howto_ssi",
    "mod_actions",
    "mod_auth_basic",
    "mod_cgi",
    "mod_dav",
    "mod_dir",
    "stopping",
)
JA = ("bind", "filter", "handler", "mod_alias", "mod_env", "mod_cgi", "mod_so", "mod_info", "mod_speling")
CHARACTERS = {"en": 2400, "ja": 1200}
MARKER = "The quarry master counted seventeen violet lanterns before the ferry left."
"""A sentence that stands in no other place; in training text, so that every stage meets it."""

PLANTED = {
    "MLFLOW_TRACKING_USERNAME": "planted-user-5d1f",
    "MLFLOW_TRACKING_PASSWORD": "planted-Tq7-password-93c2",
    "MLFLOW_TRACKING_TOKEN": "planted-token-0b77ae51",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/7Kq0secret+key9",
}
"""Secrets in the environment of the first run, which no file may hold afterwards."""
PLANTED_IN_TEXT = "planted-Zk4-text-password-11e8"
"""A password in a document: masked before anything is written."""

SETTINGS: dict[str, Any] = {
    "poc": {"title": "Tiny PoC", "owner": "ops", "organisation": "Example"},
    "corpus": {"folder": "corpus", "glossary": "glossary.csv", "questions": "questions.jsonl",
               "validation_share": 0.25, "test_share": 0.25},
    "profile": "quick",
    "model": {
        "base": {"source": "base"},
        "skip": {"path_rank": 4, "always_run_first": 1, "max_layer_damage_nats": 10.0},
        "calibrate": {"n_tokens": 256, "damage_tokens": 128, "level_tokens": 128},
        "insight": {"block_tokens": 32, "blocks": 2, "pairs": 8, "draws": 1},
        "dense_tune": {"steps": 4, "batch_blocks": 2, "lora_rank": 2},
        "skip_tune": {"steps": 4, "batch_blocks": 2},
        "sweep": {"target_skip_rates": [0.05, 0.1, 0.2], "calibration_tokens": 256, "validation_tokens": 256,
                  "test_tokens": 256, "block_tokens": 32, "validation_items": 6, "test_items": 8},
        "measure": {"n_pairs": 3, "prompt_tokens": 48, "decode_prompt_tokens": 16, "decode_tokens": 6,
                    "random_skip_rates": [0.3]},
        "block_tokens": 64,
    },
    # so wide that the random model passes and the test is opened
    "gates": {"max_ppl_rise": 100.0, "max_over_skip_validation": 1.0, "min_agreement": 0.0, "quality_margin": 0.9},
    "cost": {"price": "sakura-dok-h100", "api": "groq-llama-3.1-8b", "requests_per_month": 1000.0,
             "input_tokens": 48, "output_tokens": 6, "peak_requests_per_s": 1.0},
    "report": {"language": "ja", "n_passages": 2},
}  # fmt: skip


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with some of them changed, group by group."""
    result = dict(under)
    for key, value in over.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


@dataclass(frozen=True)
class TinyPoc:
    """A PoC folder with inputs, from which plans can be written."""

    folder: Path

    def plan(self, name: str = "poc.yaml", **changes: Any) -> Path:
        """Write a settings file beside the inputs, with some groups changed, and return its path."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(merged(SETTINGS, changes), allow_unicode=True), "utf-8")
        return path


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    poc: TinyPoc
    settings: Path
    runs: Path
    output: str
    """Everything that the process wrote to stdout and stderr."""
    network_log: Path

    @property
    def folder(self) -> Path:
        """Folder of the newest run."""
        return (self.runs / "latest").resolve()

    @property
    def result(self) -> dict[str, Any]:
        """Its result.json."""
        return read_result(self.folder)


def read_result(run_folder: Path) -> dict[str, Any]:
    """Return the parsed result.json of a run folder."""
    result: dict[str, Any] = json.loads((run_folder / "result.json").read_text("utf-8"))
    return result


def run_cli(
    settings: Path,
    runs: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    output: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `skip-poc run` as a person would: a process of its own, which finds no setting of this test session."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    home = runs.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HOME": str(home), "PYTHONPATH": f"{GUARD}{os.pathsep}{ROOT}", **(env or {})}
    command = [*prefix, sys.executable, "-m", "flows", "run", "-c", str(settings), "--runs-dir", str(runs), *arguments]
    # a file, not a pipe: a pipe would wait for whatever a killed run leaves behind, such as Prefect's own server
    with (output or runs.parent / "output.txt").open("w+", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=runs.parent, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(CLI_TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        file.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, file.read(), "")


def run_here(settings: Path, runs: Path, profile: str | None = None) -> Path:
    """Run the flow within this process, which spares the start of another one, and return the run folder."""
    from flows.poc import run_poc
    from flows.progress import Progress

    return run_poc(settings, profile, runs, Progress(stream=io.StringIO()))


def seed_prefect(finished_runs: Path, home: Path) -> None:
    """Give a later run Prefect's database of the first one: making it anew takes seconds of every run."""
    if not (home / "prefect.db").exists():
        shutil.copytree(finished_runs / "prefect", home, dirs_exist_ok=True)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time of change and content of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def _copy_text(source: Path, target: Path, n_characters: int, extra: str = "") -> str:
    text = source.read_text("utf-8")[:n_characters].rpartition("\n")[0] + "\n" + extra
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
    return text


def make_tiny_poc(folder: Path) -> TinyPoc:
    """Write documents of the sample cut short, its glossary, some of its questions, and a random base model."""
    pages = [f"en/{name}.txt" for name in EN] + [f"ja/{name}.txt" for name in JA]
    pages = [page for page in pages if (SAMPLE / "corpus" / page).is_file()]
    assert len(pages) >= 14, pages
    texts = []
    for page in pages:
        extra = f"\n{MARKER}\n" * 3 + f"\npassword: {PLANTED_IN_TEXT}\n" if page == pages[-1] else ""
        texts.append(_copy_text(SAMPLE / "corpus" / page, folder / "corpus" / page, CHARACTERS[page[:2]], extra))
    shutil.copy(SAMPLE / "glossary.csv", folder)
    lines = (SAMPLE / "questions.jsonl").read_text("utf-8").splitlines()
    groups = list(dict.fromkeys(json.loads(line)["group"] for line in lines))
    wanted = set(groups[:: len(groups) // 30])
    kept = [line for line in lines if json.loads(line)["group"] in wanted]
    (folder / "questions.jsonl").write_text("\n".join(kept) + "\n", "utf-8")
    save_base_folder(folder / "base", texts)
    return TinyPoc(folder)


@pytest.fixture(scope="session")
def tiny_poc(tmp_path_factory: pytest.TempPathFactory) -> TinyPoc:
    """A tiny PoC that nobody has run yet."""
    return make_tiny_poc(tmp_path_factory.mktemp("poc"))


def offline_prefix() -> list[str]:
    """Return a command prefix that takes every network but loopback away, or nothing where that is not allowed."""
    up = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    for options in (["--net"], ["--net", "--map-root-user"]):
        prefix = ["unshare", *options, *up]
        with contextlib.suppress(OSError):
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
    return []


@pytest.fixture(scope="session")
def finished(tiny_poc: TinyPoc, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The first run: the command line in a process of its own, with the network cut off."""
    folder = tmp_path_factory.mktemp("finished")
    log = folder / "network.log"
    settings = tiny_poc.plan()
    env = {"SKIP_POC_TEST_NETWORK_LOG": str(log)}
    done = run_cli(settings, folder / "runs", env=env | PLANTED, prefix=offline_prefix())
    assert done.returncode == 0, done.stdout
    seed_prefect(folder / "runs", Path(os.environ["PREFECT_HOME"]))
    return Finished(tiny_poc, settings, folder / "runs", done.stdout, log)


@pytest.fixture(scope="session")
def variants(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder of its own with the finished stages in it, for plans that differ a little."""
    runs = tmp_path_factory.mktemp("variants") / "runs"
    shutil.copytree(finished.runs / "store", runs / "store")
    return runs


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, one per file of tests."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file of tests writes its reports."""
    return tmp_path_factory.mktemp("reports")
