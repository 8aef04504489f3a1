"""Types that travel between the modules of this room: a file, a text of a file, a rejection."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileRef", "Rejected", "Text"]


@dataclass(frozen=True)
class FileRef:
    """A file in the corpus folder, or a member of an archive in it."""

    source: str
    """Posix path within the corpus folder; an archive member is ``a.zip!/b/c.txt``."""
    path: Path
    """File on disk; for a member the extracted temporary file."""
    n_bytes: int


@dataclass(frozen=True)
class Text:
    """One text of a file; a mail box gives one per message, every other file gives one."""

    source: str
    """Source of the file, or ``mail.mbox!/12`` for the message at index 12."""
    text: str
    media_type: str
    """Such as ``text/plain`` or ``application/pdf``."""
    encoding: str | None
    """Encoding of the bytes, where the text came as bytes."""


@dataclass(frozen=True)
class Rejected:
    """One file or folder that is not used: ``reason`` is a code of ``reasons``, ``detail`` says where, never what."""

    source: str
    reason: str
    detail: str
