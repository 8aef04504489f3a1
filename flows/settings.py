"""Settings of a PoC: one YAML file, one strict tree, one committed JSON schema.

The tree is registered before the first measurement: `plan_sha256` is printed in the report, and changing a
setting afterwards makes another run. Paths are relative to the YAML file.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from flows.corpus.clean import CleanConfig
from flows.corpus.limits import Limits
from flows.errors import PocError
from flows.explain import explain
from flows.settings_base import Count, NotNegative, Positive, Share, Strict, Text
from flows.settings_ops import MonthSettings, ScaleSettings, TrackingSettings
from flows.store import Json, sha256_json
from kpis.errors import KpiError
from kpis.limits import GateLimits
from skipmodel.config import ModelConfig
from skipmodel.errors import SkipModelError

PROFILES_PATH = Path(__file__).with_name("profiles.yaml")
SCHEMA_PATH = Path(__file__).with_name("settings.schema.json")

Profile = Literal["auto", "quick", "standard", "full"]


class PocSettings(Strict):
    """Who decides what, and when; printed at the head of the report."""

    title: Text
    """Name of the PoC."""
    owner: Text
    """Person or team that answers for the decision."""
    organisation: Text
    """Company or department."""
    decision_date: datetime.date | None = None
    """Day on which the decision is due, YYYY-MM-DD."""


class CorpusSettings(Strict):
    """The in-house text, its glossary and its questions."""

    folder: Text
    """Folder of the documents."""
    glossary: Text | None = None
    """CSV of terms that must not be over-skipped; null when there is none."""
    questions: Text | None = None
    """JSON lines of questions with known answers; null scores no answers, and the evidence stays short."""
    min_characters: Count = 200
    """Shorter documents go to quarantine. [characters]"""
    max_unreadable_share: Share = 0.2
    """Share of the texts that may be damaged, encrypted or otherwise unreadable; with more the run stops."""
    boilerplate_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """A line that at least this share of the documents have, such as a footer, is left out; null keeps all lines."""
    background: Text | None = None
    """General text that is mixed into training against forgetting: `package:libreoffice-help` where that Debian package
    is installed, or a folder of text files; null mixes in none."""
    background_share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.15
    """Share of it among the training characters of each language."""
    private_names: Text | None = None
    """Text file of names of people, one a line, that are masked like other personal data; null masks no names."""
    clean: CleanConfig = CleanConfig()
    """How the text is cleaned."""
    limits: Limits = Limits()
    """What a single file may cost; one that costs more goes to quarantine."""
    validation_share: Share = 0.15
    """Share of the documents on which the threshold is chosen."""
    test_share: Share = 0.15
    """Share of the documents that only the one confirmatory test sees."""

    @model_validator(mode="after")
    def _leave_text_to_train_on(self) -> CorpusSettings:
        if self.validation_share + self.test_share > 0.8:
            raise ValueError("validation_share + test_share must be at most 0.8, so that text to train on is left")
        return self


class CostSettings(Strict):
    """Load, prices and effort: what turns seconds into yen. The promised response times are in `gates`."""

    prices: Text | None = None
    """YAML file of prices; null takes the file that comes with the product."""
    price: Text
    """Id of the price row of the machine that serves the model."""
    api: Text
    """Id of the price row of the hosted service to compare with."""
    requests_per_month: Positive
    """Expected requests. [1/month]"""
    input_tokens: Annotated[int, Field(ge=1)]
    """Mean prompt length. [tokens/request]"""
    output_tokens: Annotated[int, Field(ge=1)]
    """Mean answer length. [tokens/request]"""
    peak_requests_per_s: Positive
    """Load of the busiest minute; it decides the number of replicas. [1/s]"""
    hours_per_month: Annotated[float, Field(gt=0.0, le=744.0)] = 730.0
    """Hours for which a replica is paid. [h/month]"""
    target_load: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Share of its capacity to which a replica is loaded at the peak."""
    utilisations: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.1, 0.3, 0.6)
    """Utilisations for which yen per million tokens are shown."""
    engineer_days: NotNegative = 20.0
    """Effort of introduction. [days]"""
    engineer_jpy_per_day: NotNegative = 80000.0
    """Day rate, excluding tax. [JPY/day]"""
    upkeep_jpy_per_month: NotNegative = 100000.0
    """Work that only the skip model needs: re-tuning, monitoring, evaluation. [JPY/month]"""
    retuning_months: Annotated[int, Field(ge=1, le=120)] | None = None
    """The model is tuned again every so many months: the machine hours that this run measured are then paid again, on
    top of the upkeep. null plans none. [months]"""
    spot_share: Share = 0.0
    """Share of the machine hours that runs on spot machines, which may be taken away; the price file needs a spot row
    of the same provider, device and region."""
    load_test: Text | None = None
    """JSON file of a load test of the served model (form: kpis/load_test.py); null: responses are measured one request
    at a time, which cannot show the promised times at the peak. The load asked for is `peak_requests_per_s`."""
    horizon_months: Annotated[int, Field(ge=1, le=120)] = 36
    """Months over which the investment is judged."""
    discount_rate: Share = 0.05
    """Yearly discount rate of the net present value."""


class AnswerSettings(Strict):
    """Answers that both models write to questions of the one confirmatory test; their grades decide no gate."""

    items: Count | None = None
    """Questions that are answered, the first ones of the test; 0 writes no answers, null: 16 in the quick profile, 200
    in standard, 600 in full, and never more than `model.sweep.test_items`."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest answer; one that is still going on is cut and counted. [tokens]"""
    samples: Annotated[int, Field(ge=0, le=50)] = 3
    """Answers drawn per question and model for self-consistency, beside the greedy one; 0 draws none."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 0.7
    """Of the drawn answers."""

    @model_validator(mode="after")
    def _draw_at_least_two(self) -> AnswerSettings:
        if self.samples == 1:
            raise ValueError("samples must be 0 or at least 2: a single answer agrees with nothing")
        return self


class ReportSettings(Strict):
    """How the report looks. Not part of the plan."""

    language: Literal["ja", "en"] = "ja"
    """Language of the report."""
    include_samples: bool = False
    """Show tokens of the corpus in the report. Off: in-house text never leaves the run folder."""
    n_passages: Annotated[int, Field(ge=0, le=20)] = 4
    """Passages whose routing is drawn."""


class Settings(Strict):
    """One PoC."""

    poc: PocSettings
    """Who decides what, and when."""
    corpus: CorpusSettings
    """The in-house text."""
    model: ModelConfig = ModelConfig()
    """The model and how it is tuned and evaluated; unset budgets come from the profile."""
    gates: GateLimits = GateLimits()
    """Limits of the verdict, registered before the first measurement."""
    cost: CostSettings
    """Load, prices and effort."""
    answers: AnswerSettings = AnswerSettings()
    """Answers that both models write in the confirmatory test."""
    tracking: TrackingSettings = TrackingSettings()
    """Where MLflow keeps the runs."""
    report: ReportSettings = ReportSettings()
    """How the report looks."""
    month: MonthSettings = MonthSettings()
    """When the month stops before its end."""
    scale: ScaleSettings = Field(default=ScaleSettings(), exclude=True)
    """How many workers share the sweep. Left out of every dump: neither plan nor result depends on it."""
    profile: Profile = "auto"
    """Budget: quick (CPU, minutes), standard (one GPU), full. auto: quick without CUDA, standard with it.
    After loading it is never auto."""


def load_settings(path: Path, profile: str | None = None) -> Settings:
    """Read, complete and validate a PoC's settings.

    The profile's budgets lie under the file's own `model:` values, so that a value in the file always counts.

    Args:
        path: The YAML file.
        profile: The profile asked for on the command line; None takes the registered one.

    Raises:
        PocError: The file is missing or not YAML, a key is unknown, a value has the wrong type or is out of
            range, or `profile` contradicts the registered one.
    """
    values = _read_yaml(path)
    name = _choose_profile(values.get("profile", "auto"), profile, path)
    own_model = values.get("model", {})
    budgets = read_profiles().get(name, {})
    # a value that is no object, or a name that is no profile, is left to the validation, which names the path
    merged = {**values, "profile": name}
    if isinstance(own_model, dict):
        merged["model"] = _merge(budgets, own_model)
    _name_the_experiment(merged)
    _refuse_non_finite(merged, "", path)
    try:
        return Settings.model_validate_json(json.dumps(merged, default=_iso_date))
    except ValidationError as error:
        raise explain(error, Settings, path) from error
    except (SkipModelError, KpiError, TypeError) as error:
        raise PocError(str(error), where=str(path), todo="correct the value named above") from error


def _name_the_experiment(values: dict[str, Any]) -> None:
    """Give every PoC an experiment of its own in MLflow, unless the file names one."""
    poc, tracking = values.get("poc"), values.get("tracking", {})
    if isinstance(poc, dict) and isinstance(poc.get("title"), str) and isinstance(tracking, dict):
        values["tracking"] = {"experiment": f"skiplayer-poc: {poc['title']}"[:200], **tracking}


def read_profiles() -> dict[str, dict[str, Any]]:
    """Return the model budgets of each profile."""
    return {name: budgets or {} for name, budgets in _read_yaml(PROFILES_PATH).items()}


def flatten(settings: Settings) -> dict[str, Json]:
    """Return the settings as `group.key: value`; lists stay lists."""
    flat: dict[str, Json] = {}

    def visit(prefix: str, value: Json) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value

    visit("", settings.model_dump(mode="json"))
    return flat


def plan_sha256(settings: Settings) -> str:
    """Return the hash of the registered plan: everything but `tracking`, `report` and `scale`."""
    return sha256_json(settings.model_dump(mode="json", exclude={"tracking", "report"}))


def schema_text() -> str:
    """Return the JSON schema of the settings file as it is committed."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    return json.dumps(schema, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def write_schema(path: Path = SCHEMA_PATH) -> Path:
    """Write the JSON schema that editors use for completion and checks."""
    path.write_text(schema_text(), "utf-8")
    return path


def resolve(settings_path: Path, value: str) -> Path:
    """Return a path of the settings, which is relative to the settings file."""
    return (settings_path.resolve().parent / value).resolve()


def base_source(settings: Settings, settings_path: Path) -> str:
    """Return `model.base.source` with a folder that lies beside the settings file made absolute."""
    source = settings.model.base.source
    folder = resolve(settings_path, source)
    return source if source.startswith("package:") or not folder.is_dir() else str(folder)


def background_source(settings: Settings, settings_path: Path) -> str | None:
    """Return `corpus.background` with a folder made absolute."""
    source = settings.corpus.background
    return source if source is None or source.startswith("package:") else str(resolve(settings_path, source))


def _choose_profile(registered: object, asked: str | None, path: Path) -> str:
    if asked is not None and asked not in ("auto", registered) and registered != "auto":
        raise PocError(
            f"profile {asked} was asked for, but the registered plan says {registered}",
            where=f"{path}: profile",
            todo="run without --profile, or change the registered plan to `profile: auto`",
        )
    name = asked if registered == "auto" and asked is not None else registered
    if name == "auto":
        return "standard" if has_cuda() else "quick"
    return str(name)


def price_path(settings: Settings, settings_path: Path) -> Path:
    """Return the price file: the PoC's own, or the one that comes with the product."""
    from kpis.prices import DEFAULT_PATH

    own = settings.cost.prices
    return DEFAULT_PATH if own is None else resolve(settings_path, own)


def has_cuda() -> bool:
    """Tell whether a CUDA device can be used. Without any device file of a GPU, torch is not even imported."""
    if not any(Path("/dev").glob(pattern) for pattern in ("nvidia*", "kfd", "dxg")):
        return False
    import torch

    return bool(torch.cuda.is_available())


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _refuse_non_finite(value: object, setting: str, path: Path) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{setting}.{key}" if setting else str(key), path)
    elif isinstance(value, list):
        for item in value:
            _refuse_non_finite(item, setting, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PocError(f"{setting} must be a finite number, got {value}", where=str(path),
                       todo="correct the setting named above")  # fmt: skip


def _iso_date(value: object) -> str:
    if isinstance(value, datetime.date):  # YAML reads 2027-01-31 as a date
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} is not a setting: {value!r}")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            problem = f"key {', '.join(twice)} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise PocError(f"the settings file cannot be read: {error.strerror}", where=str(path),
                       todo="give the path of a poc.yaml; `skip-poc init DIR` makes one") from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise PocError("the settings file is not UTF-8", where=str(path),
                       todo="save it as UTF-8") from error  # fmt: skip
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise PocError(f"the settings file is not valid YAML: {getattr(error, 'problem', error)}",
                       where=f"{path}{line}", todo="correct that line") from error  # fmt: skip
    if not isinstance(values, dict):
        raise PocError("the settings file holds no settings", where=str(path),
                       todo="start from the file that `skip-poc init DIR` makes")  # fmt: skip
    # a group whose lines are all commented out reads as null
    return {str(key): value for key, value in values.items() if value is not None}
