"""How large, how long and how deep a file may be before it goes to quarantine instead of the corpus."""

from dataclasses import dataclass

__all__ = ["HARMLESS_BYTES", "Limits"]

MIB = 2**20
HARMLESS_BYTES = 16 * MIB
"""Archives and Office files that unpack to no more are read whatever their ratio. [bytes]"""


@dataclass(frozen=True)
class Limits:
    """Limits of reading; the defaults keep a run below 2 GiB of memory per process."""

    max_file_bytes: int = 256 * MIB
    """Largest file that is read; archives have their own limits. [bytes]"""
    max_line_characters: int = 1_000_000
    """Longest line of a text; longer ones are data, not language. [characters]"""
    max_archive_members: int = 100_000
    """Most files in one archive, its inner archives included."""
    max_archive_bytes: int = 8 * 1024 * MIB
    """Most that one archive may unpack to, its inner archives included. [bytes]"""
    max_archive_ratio: float = 200.0
    """Most that an archive may grow when it is unpacked; text grows 3 to 20 times."""
    max_archive_depth: int = 2
    """Archives, or mails, within each other: 2 allows an archive in an archive."""
    max_office_bytes: int = 512 * MIB
    """Most that the parts of one Office file may unpack to. [bytes]"""
    seconds_per_file: float = 120.0
    """Time for one file. [s]"""
    seconds_per_archive: float = 1800.0
    """Time to unpack one archive. [s]"""
    memory_bytes: int = 1536 * MIB
    """Address space of a process that reads files. [bytes]"""
