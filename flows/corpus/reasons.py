"""Why a file is not used: the codes of the quarantine list, and the exception that carries one."""

__all__ = ["REASONS", "Refused"]

REASONS: dict[str, str] = {
    "symbolic_link": "A link, which may lead out of the folder; give the file itself.",
    "special_file": "Neither a file nor a folder, such as a pipe or a device.",
    "unreadable": "The system refuses to open it; check the permissions and the disk.",
    "unsupported_type": "No reader for this type; save it as one of the supported types.",
    "lock_file": "A lock file that an Office program leaves beside an open document.",
    "empty": "It holds no text.",
    "no_text_layer": "A PDF of images, such as a scan; text recognition has to be run on it first.",
    "not_text": "Its bytes are binary data although its name says text.",
    "unknown_encoding": "Its bytes are text in none of the supported encodings, or several encodings mixed.",
    "too_short": "Shorter than the least number of characters set for a document.",
    "too_large": "Larger than the limit for one file, or needing more memory than one file may take.",
    "line_too_long": "One line is longer than any text has: data, not language.",
    "encrypted": "Protected by a password; save it without one.",
    "damaged": "It does not follow the format that its name or its first bytes promise; it may be cut off.",
    "xml_entities": "It defines XML entities, which office programs never write and attacks use.",
    "archive_bomb": "It unpacks to more than its limits allow.",
    "path_traversal": "The name of the archive member leads out of the archive.",
    "nested_too_deep": "Archives or mails lie within each other deeper than the limit.",
    "reader_crashed": "The reader of this type ended abnormally; the file is not used.",
    "reader_timeout": "Reading took longer than the limit for one file.",
}
"""Code: meaning, for the quarantine report."""


class Refused(Exception):  # noqa: N818 - a file that is refused is no error of the program
    """A reader does not take a file, or a part of it.

    Args:
        reason: A code of ``REASONS``.
        detail: Kind and place, such as ``page 4``; never content.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
