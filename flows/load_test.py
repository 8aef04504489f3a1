"""The file of a load test that a plan may name: its place and its content."""

from __future__ import annotations

import json
from pathlib import Path

from flows.errors import PocError
from flows.settings import Settings, resolve
from kpis.errors import RecordError
from kpis.load_test import LoadTest


def planned_path(settings: Settings, settings_path: Path) -> Path | None:
    """Return where the plan says the file is; None when it names none."""
    name = settings.cost.load_test
    return None if name is None else resolve(settings_path, name)


def load(path: Path) -> LoadTest:
    """Return the checked records of a load test.

    Raises:
        PocError: The file cannot be read, or is no load test.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise RecordError(f"expected a JSON object, got {type(content).__name__}")
        return LoadTest.from_json(content)
    except (OSError, ValueError) as error:
        raise PocError(f"the load test cannot be used: {error}", where=f"cost.load_test: {path}",
                       todo="write the file in the form described in kpis/load_test.py, or set cost.load_test to null "
                            "until the served model has been tested") from error  # fmt: skip
