"""The types of files that are read, by suffix, and what their first bytes say."""

__all__ = ["ARCHIVES", "MEDIA_TYPES", "OFFICE", "supported"]

_OPEN_XML = "application/vnd.openxmlformats-officedocument."
OFFICE = {
    ".docx": _OPEN_XML + "wordprocessingml.document",
    ".xlsx": _OPEN_XML + "spreadsheetml.sheet",
    ".pptx": _OPEN_XML + "presentationml.presentation",
}
MEDIA_TYPES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".eml": "message/rfc822",
    ".mbox": "application/mbox",
    ".pdf": "application/pdf",
    **OFFICE,
}
"""Suffix: media type."""
ARCHIVES = (".zip",)


def supported() -> str:
    """Return the suffixes that are read, for messages."""
    return " ".join(sorted((*MEDIA_TYPES, *ARCHIVES)))
