"""`skip-poc init`: a copy of the sample PoC to start from."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.errors import PocError
from flows.settings import SCHEMA_PATH
from flows.store import clear_disk_errors

SAMPLE = Path(__file__).with_name("sample")
_SCHEMA_IN_SAMPLE = f"../{SCHEMA_PATH.name}"


def copy_sample(folder: Path) -> Path:
    """Copy the sample PoC into a new or empty folder and return its settings file.

    The settings schema goes along, so that editors check the copy too.

    Raises:
        PocError: The folder holds something already, or cannot be written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise PocError("the folder is not empty", where=str(folder), todo="name a new or an empty folder")
    with clear_disk_errors(folder):
        # scripts that made the sample are no part of a user's PoC
        skip = shutil.ignore_patterns("*.py", "__pycache__")
        shutil.copytree(SAMPLE, folder, ignore=skip, dirs_exist_ok=True)
        shutil.copy(SCHEMA_PATH, folder)
        settings_path = folder / "poc.yaml"
        text = settings_path.read_text("utf-8")
        settings_path.write_text(text.replace(_SCHEMA_IN_SAMPLE, SCHEMA_PATH.name), "utf-8")
    return settings_path
