"""What a benchmark measures. Loads without torch, so that the command line can tell its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from skipmodel.errors import ConfigError

PHASES = ("prefill", "decode")
DTYPES = ("float32", "bfloat16")
WEIGHTS = ("float", "int8")


@dataclass(frozen=True)
class BenchConfig:
    """The grid: every combination is one cell.

    Attributes:
        phases: prefill, decode.
        batches: Sequences at once.
        prompts: Tokens read before decoding, or by the prefill.
        output_tokens: Decoded tokens of a timed run; the length is fixed.
        skip_rates: Shares of all layer executions that random routing skips; 0 shows what the routers cost.
        dtypes: Number formats; none takes that of the checkpoint.
        group_rows: Rows computed at once in gathered prefill; 0 is all.
        weights: float or int8.
        n_pairs: Interleaved pairs per cell.
        cell_budget_s: Seconds per cell: fewer pairs where they are used up, none where one run would. [s]
        use_rule: Calibrate the engagement rule and time what it chooses.
        calibration_s: About so many seconds for one calibration. [s]
        use_compiled: Time a dense model compiled by torch too.
        natural_tokens: Longest answer of the natural-length view; 0 leaves the view out.
        seed: Of random tokens and masks.
    """

    phases: tuple[str, ...] = PHASES
    batches: tuple[int, ...] = (1, 4, 16, 32)
    prompts: tuple[int, ...] = (128, 512, 2048)
    output_tokens: int = 32
    skip_rates: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5)
    dtypes: tuple[str, ...] = ()
    group_rows: tuple[int, ...] = (0,)
    weights: tuple[str, ...] = ("float",)
    n_pairs: int = 6
    cell_budget_s: float = 60.0
    use_rule: bool = True
    calibration_s: float = 10.0
    use_compiled: bool = False
    natural_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, known in (("phases", PHASES), ("dtypes", DTYPES), ("weights", WEIGHTS)):
            values = getattr(self, name)
            _check(set(values) <= set(known) and (values or name == "dtypes"), name, f"of {', '.join(known)}", values)
        for name, least in (("batches", 1), ("prompts", 2), ("group_rows", 0)):
            values = getattr(self, name)
            _check(bool(values) and min(values) >= least, name, f"whole numbers of {least} or more", values)
        _check(all(0.0 <= rate < 1.0 for rate in self.skip_rates), "skip_rates", "within [0, 1)", self.skip_rates)
        for name, least in (("n_pairs", 2), ("output_tokens", 1), ("natural_tokens", 0)):
            _check(getattr(self, name) >= least, name, f"{least} or more", getattr(self, name))
        for name in ("cell_budget_s", "calibration_s"):
            _check(getattr(self, name) > 0, name, "above 0 s", getattr(self, name))


def _check(holds: object, name: str, expected: str, value: object) -> None:
    if not holds:
        option = name.replace("n_", "").replace("_", "-")
        raise ConfigError(f"bench: --{option}: expected {expected}, got {value}; correct it and start again")
