"""Errors of the report package.

ReportError
├── ResultError    result.json does not follow its schema or contradicts itself
├── CatalogError   a message is missing in a language, or its parameters do not fit
└── FormatError    a figure has no rounding rule, or its value does not fit that rule

Every message says what was expected, what came, where, and what to do next.
"""


class ReportError(Exception):
    """Base of every error that reports raises on purpose."""


class ResultError(ReportError):
    """result.json does not follow its schema, or two of its parts contradict each other."""


class CatalogError(ReportError):
    """A message is missing in a language catalog, or was given the wrong parameters."""


class FormatError(ReportError):
    """A figure names no known rounding rule, or its value does not fit the rule."""
