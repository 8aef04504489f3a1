"""Who may import what: the layers, and an allow-list per room read from the syntax tree."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "kpis": {"kpis", "numpy", "scipy", "sklearn", "yaml"},
    "reports": {"reports", "kpis", "jinja2", "markupsafe", "matplotlib", "jsonschema"},
    "skipmodel": {"skipmodel", "torch", "transformers", "accelerate", "peft", "safetensors", "gguf", "numpy"},
}
BY_FOLDER = {"skipmodel/serve": {"fastapi", "starlette", "uvicorn"}}
"""What one folder of a room may import beside that."""
ONE_OWNER = {
    "mlflow": {"flows/tracking.py", "flows/tracking_model.py"},
    "jinja2": {"reports/render.py"},
}


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports anywhere, functions and type-checking blocks included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else (node.module or "").partition(".")[0])
    return names


def test_import_finder_sees_hidden_imports(tmp_path):
    """The finder that the other tests lean on sees imports inside functions and relative ones."""
    path = tmp_path / "x.py"
    path.write_text("import os.path\ndef f():\n    from mlflow.entities import Run\nfrom . import y\n")

    assert imported(path) == {"os", "mlflow", "."}


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_what_it_may(room):
    """A room runs with its listed packages and the standard library alone; no relative imports."""
    allowed = ALLOWED[room] | set(sys.stdlib_module_names)
    extra = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        unlisted = imported(path) - allowed - BY_FOLDER.get(path.parent.relative_to(ROOT).as_posix(), set())
        if unlisted:
            extra[str(path.relative_to(ROOT))] = unlisted

    assert extra == {}


@pytest.mark.parametrize("package", ONE_OWNER)
def test_outside_service_has_one_owner(package):
    """One file speaks to it, so that one file changes when it does."""
    users = {
        str(path.relative_to(ROOT))
        for room in ("flows", "kpis", "reports", "skipmodel")
        for path in (ROOT / room).rglob("*.py")
        if package in imported(path)
    }

    assert users <= ONE_OWNER[package]


def test_model_settings_load_without_torch():
    """A machine without torch can still read and check a plan."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from skipmodel.config_json import from_json; from_json({'seed': 1})"
    )

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_layers_hold():
    """The import-linter contracts of pyproject.toml are kept."""
    script = Path(sys.executable).with_name("lint-imports")
    if not script.exists():
        pytest.skip("import-linter is not installed; do: make env")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    result = subprocess.run(
        [str(script), "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr
