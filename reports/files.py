"""Writing what the report package makes: a reader sees the whole file or the one before it, never half of one."""

import os
import tempfile
from pathlib import Path

from reports.errors import ReportError


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, making its folder when needed.

    Raises:
        ReportError: when it cannot be written.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise ReportError(
            f"expected a writable place for the report, got {error} at {path}; free space or permissions"
        ) from error
