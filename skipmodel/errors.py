"""Errors of the model package.

SkipModelError
├── ConfigError        a setting is out of range or does not fit the model
├── CheckpointError    a folder is missing, damaged, or belongs to another base model
├── DataError          token data cannot serve (too short, wrong vocabulary)
├── TrainingError      training diverged or a router collapsed
└── MeasurementError   a timing could not be taken

Every message says what was expected, what came, where, and what to do next.
"""


class SkipModelError(Exception):
    """Base of every error that skipmodel raises on purpose."""


class ConfigError(SkipModelError):
    """A setting is out of range, or does not fit the model it is used with."""


class CheckpointError(SkipModelError):
    """A checkpoint or base model is missing, damaged, or of another shape than asked for."""


class DataError(SkipModelError):
    """Token data cannot serve its purpose, such as a corpus shorter than one block."""


class TrainingError(SkipModelError):
    """Training produced a value that is not a number, or a router that no longer decides anything."""


class MeasurementError(SkipModelError):
    """A timing could not be taken as asked."""
