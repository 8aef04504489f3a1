"""The built wheel and sdist, used as a stranger would: an environment without the checkout, another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, TinyPoc, read_result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BUILD = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
PARTS = ("flows", "kpis", "reports", "skipmodel", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from a copy of the tree, so that nothing is written beside the sources."""
    tree = tmp_path_factory.mktemp("tree")
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    (tree / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return tree / "dist"


def test_both_hold_what_a_run_needs(dist: Path) -> None:
    """Sources, sample, templates, catalogs, price list and job templates; no test, no run data."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "flows/month.py", "flows/profiles.yaml", "flows/sample/poc.yaml", "flows/pools/kubernetes.json",
        "flows/settings.schema.json", "kpis/prices.yaml", "reports/catalogs/ja.json", "skipmodel/engine/__init__.py",
    }  # fmt: skip

    assert wanted <= names
    assert wanted <= in_sdist
    assert [name for name in names if name.startswith(("tests/", "runs/"))] == []
    modules = {path.relative_to(ROOT).as_posix() for room in ("flows", "kpis", "reports", "skipmodel")
               for path in (ROOT / room).rglob("*.py")}  # fmt: skip
    assert modules - names == set()


def test_the_wheel_runs_outside_the_checkout(dist: Path, tiny_poc: TinyPoc, tmp_path: Path) -> None:
    """`skip-poc init`, `check` and `run` in a fresh environment that knows the dependencies and not the checkout."""
    (wheel,) = dist.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # the dependencies of this environment, without installing gigabytes again; its own editable install stays out,
    # because a path that comes from a .pth file brings no further .pth files
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    (entry,) = [
        line for line in next(site.glob("*.dist-info/entry_points.txt")).read_text("utf-8").splitlines() if "=" in line
    ]
    module, _, function = entry.partition("=")[2].strip().partition(":")
    command = [
        str(venv / "bin" / "python"),
        "-c",
        f"import sys; from {module} import {function}; sys.exit({function}())",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              check=False, timeout=1200)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    run("init", "my-poc")
    assert (tmp_path / "my-poc" / "corpus").is_dir()
    for name in ("corpus", "base"):
        shutil.rmtree(tmp_path / "my-poc" / name, ignore_errors=True)
    tiny_poc.plan()
    shutil.copytree(tiny_poc.folder, tmp_path / "my-poc", dirs_exist_ok=True)
    run("check", "-c", "my-poc/poc.yaml")
    output = run("run", "-c", "my-poc/poc.yaml")

    assert read_result(tmp_path / "runs" / "latest")["run"]["git_commit"] is None
    assert (tmp_path / "runs" / "latest" / "report.html").is_file()
    assert str(ROOT) not in output
