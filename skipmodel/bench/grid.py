"""The whole benchmark: every cell of a grid in turn, kept as soon as it is finished.

Running out of memory halves the batch of a cell, a cell that would outlast its budget is left out with a reason, and
Ctrl-C keeps the cells that are finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from skipmodel.bench import document as documents
from skipmodel.bench import rivals
from skipmodel.bench.cells import Kind, Row, backend_of, time_cell
from skipmodel.bench.config import BenchConfig
from skipmodel.bench.devices import EnergyMeter, environment, free_memory, is_out_of_memory, load_average
from skipmodel.bench.loads import DecodeLoad, Load, PrefillLoad
from skipmodel.bench.natural import natural_view
from skipmodel.bench.predict import Predictor
from skipmodel.bench.texts import Texts
from skipmodel.engine import engagement as rule
from skipmodel.engine.calibration import calibrate, hardware, model_key
from skipmodel.engine.engagement import Engagement, Phase
from skipmodel.engine.executor import Engine
from skipmodel.engine.masked import AnyEngine, open_engine
from skipmodel.errors import ConfigError, DataError, MeasurementError
from skipmodel.guards import TokenSequences

MAX_TEXTS = 6
"""Texts of a cell at most; one batch of many already averages over texts."""


@dataclass(frozen=True)
class Subject:
    """What is benchmarked.

    Attributes:
        name: Shown name; never a path.
        open: Returns the routed model in a number format, None for its own, on its device.
        texts: Where texts come from.
        threshold_logit: Of the learned routing; None times random routing only.
        facts: threshold and level as they were asked for.
        finder: Guarded sequences, for answers of natural length.
        end_ids: Tokens that end a text.
        vocabulary: Token ids are below this.
    """

    name: str
    open: Callable[[str | None], Any]
    texts: Texts
    threshold_logit: float | None
    facts: dict[str, float | None]
    finder: TokenSequences | None = None
    end_ids: Collection[int] = ()
    vocabulary: int = 1000


@dataclass(frozen=True)
class Cell:
    """One cell that is to be measured."""

    phase: Phase
    batch: int
    prompt: int
    kind: Kind
    skip_rate: float | None


class Grid:
    """Measures a grid and holds its document.

    Args:
        subject: What is benchmarked.
        config: The grid.
        save: Called with the document after every cell.
        warn: Told in words what went otherwise than asked.
        calibrations: Folder in which calibrations are kept and found again; None keeps none.
    """

    def __init__(
        self, subject: Subject, config: BenchConfig, save: Callable[[dict[str, Any]], None],
        warn: Callable[[str], None], calibrations: Path | None = None,
    ) -> None:  # fmt: skip
        self.subject, self.config, self.save, self.calibrations = subject, config, save, calibrations
        self._tell = warn
        self.document: dict[str, Any] = {}
        self._started = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Measure everything and return the document.

        Raises:
            KeyboardInterrupt: As it came, after the document was saved with `interrupted` set.
        """
        try:
            for dtype in self.config.dtypes or (None,):
                model = self.subject.open(dtype)
                if not self.document:
                    self._begin(model)
                for number, weights in enumerate(self.config.weights):
                    self._engine(model, weights, is_first=number == 0)
        except KeyboardInterrupt:
            if self.document:
                self.document["interrupted"] = True
                self._keep()
            raise
        self._keep()
        return self.document

    def _begin(self, model: Any) -> None:
        config = model.config
        facts = {"name": self.subject.name, "family": config.text_config.model_type, "n_layers": model.work.n_layers,
                 "n_routed": len(config.routed_units), "real_text": self.subject.texts.is_real}  # fmt: skip
        self.energy = EnergyMeter.open(model.device)
        machine = environment(model.device) | {"energy_reason": self.energy.reason}
        asked = dataclasses.asdict(self.config)
        self.document = documents.new_document(facts | self.subject.facts, asked, machine)
        self._keep()

    def _keep(self) -> None:
        self.document["environment"]["load_after"] = load_average()
        self.document["measured_s"] = time.perf_counter() - self._started
        self.save(self.document)

    def _warn(self, text: str) -> None:
        self.document["warnings"].append(text)
        self._tell(text)

    # --- one engine ---------------------------------------------------------------------------------------------

    def _engine(self, model: Any, weights: str, *, is_first: bool) -> None:
        try:
            engine = open_engine(model, cast('Literal["float", "int8"]', weights))
        except ConfigError as error:
            self._warn(f"weights {weights}: {error}")
            for cell in self._cells(is_first_rows=True):
                self._add(_left_out(cell, "not_supported", None, weights=weights))
            return
        predictor = Predictor(engine)
        for number, rows in enumerate(self.config.group_rows if isinstance(engine, Engine) else (0,)):
            if isinstance(engine, Engine):
                engine.group_rows = rows
            engagement = self._calibrated(engine, weights) if self.config.use_rule else None
            for cell in self._cells(is_first_rows=number == 0):
                self._add(self._measured(engine, cell, predictor, engagement, weights))
        self._natural(engine, weights)
        if is_first and "decode" in self.config.phases:
            self._rivals(model, engine)

    def _add(self, row: Row) -> None:
        self.document["rows"].append(row.to_json())
        self._keep()

    def _cells(self, *, is_first_rows: bool) -> Iterator[Cell]:
        """Yield the cells from the smallest up; decoding one token at a time does not know rows at once."""
        config = self.config
        kinds: list[tuple[Kind, float | None]] = [("random", rate) for rate in config.skip_rates]
        if self.subject.threshold_logit is not None:
            kinds.insert(0, ("trained", None))
        sizes = sorted(itertools.product(config.batches, config.prompts), key=lambda size: (math.prod(size), size))
        for phase in config.phases:
            for (batch, prompt), (kind, rate) in itertools.product(sizes, kinds):
                if is_first_rows or phase == "prefill" or batch > 1:
                    yield Cell(cast(Phase, phase), batch, prompt, kind, rate)

    def _calibrated(self, engine: AnyEngine, weights: str) -> Engagement:
        """Return the costs of this engine on this machine: those kept, if they hold, or measured now."""
        began, config = time.perf_counter(), self.config
        machine, key = hardware(engine.device), model_key(engine, weights)
        dtype = str(engine.dtype).removeprefix("torch.")
        path = None if self.calibrations is None else self.calibrations / f"engagement_{dtype}_{key}.json"
        found, reason = (None, None) if path is None else rule.load_for(path, machine, dtype, key)
        taken = found is not None
        if found is None:
            found = calibrate(
                engine, phases=cast("tuple[Phase, ...]", config.phases), batches=config.batches,
                tokens=(min(config.prompts), max(config.prompts)), weights=weights, budget_s=config.calibration_s,
                vocabulary=self.subject.vocabulary, seed=config.seed,
            )  # fmt: skip
            if path is not None:
                found.save(path)
        rows = engine.group_rows if isinstance(engine, Engine) else 0
        self.document["calibrations"].append(found.to_json() | {
            "weights": weights, "group_rows": rows, "seconds": time.perf_counter() - began, "taken_from_file": taken,
            "reason": reason})  # fmt: skip
        return found

    # --- one cell -----------------------------------------------------------------------------------------------

    def _measured(
        self, engine: AnyEngine, cell: Cell, predictor: Predictor, engagement: Engagement | None, weights: str
    ) -> Row:
        """Measure one cell; out of memory halves the batch until it fits, and the row says so."""
        batch = cell.batch
        while True:
            row = None
            with _when_memory_runs_out():
                row = self._timed(engine, dataclasses.replace(cell, batch=batch), predictor, engagement, weights)
            if row is not None:
                note = None if batch == cell.batch else "batch_halved"
                return dataclasses.replace(row, requested_batch=cell.batch, note=note)
            free_memory(engine.device)
            if batch == 1:
                self._warn(f"{cell.phase}, prompt {cell.prompt}: out of memory at batch 1, left out")
                return _left_out(cell, "out_of_memory", engine, weights=weights)
            self._warn(f"{cell.phase}, prompt {cell.prompt}: out of memory at batch {batch}, trying {batch // 2}")
            batch //= 2

    def _timed(
        self, engine: AnyEngine, cell: Cell, predictor: Predictor, engagement: Engagement | None, weights: str
    ) -> Row:
        config, began = self.config, time.perf_counter()
        output = config.output_tokens if cell.phase == "decode" else 0
        n_texts = min(math.ceil(config.n_pairs / cell.batch), MAX_TEXTS)
        predicted_s = predictor.run_s(cell.phase, cell.batch, cell.prompt, output, n_texts)
        if predicted_s > config.cell_budget_s:
            params = {"predicted_s": predicted_s, "budget_s": config.cell_budget_s}
            return _left_out(cell, "over_budget", engine, weights=weights, params=params, output_tokens=output)
        try:
            texts = self.subject.texts.batches(cell.batch, cell.prompt + output, n_texts)
            load = self._load(engine, cell, texts)
        except DataError as error:
            return _left_out(cell, "no_text", engine, weights=weights, params={"told": str(error)},
                             output_tokens=output)  # fmt: skip
        except MeasurementError as error:
            return _left_out(cell, "rate_out_of_reach", engine, weights=weights, params={"told": str(error)},
                             output_tokens=output)  # fmt: skip
        left_s = config.cell_budget_s - (time.perf_counter() - began)
        return time_cell(engine, load, n_pairs=config.n_pairs, kind=cell.kind, budget_s=left_s, engagement=engagement,
                         requested_skip_rate=cell.skip_rate, weights=weights)  # fmt: skip

    def _load(self, engine: AnyEngine, cell: Cell, texts: list[Any]) -> Load:
        logit = self.subject.threshold_logit
        routing = None if logit is None or cell.kind == "random" else engine.routing(logit)
        if cell.kind == "random":
            texts = [dataclasses.replace(batch, forced_BT=None) for batch in texts]  # a drawn rate is kept as drawn
        options: dict[str, Any] = {"random_skip_rate": cell.skip_rate, "seed": self.config.seed, "energy": self.energy}
        if cell.phase == "decode":
            return DecodeLoad(engine, texts, cell.prompt, routing, **options)
        return PrefillLoad(engine, texts, routing, **options)

    # --- beside the grid ----------------------------------------------------------------------------------------

    def _natural(self, engine: AnyEngine, weights: str) -> None:
        """Answer real prompts at natural length; of random tokens or random routing there is no natural length."""
        subject, config = self.subject, self.config
        if subject.threshold_logit is None or not subject.texts.is_real or config.natural_tokens == 0:
            return
        try:
            prompts = subject.texts.batches(1, min(config.prompts), config.n_pairs)
        except DataError as error:
            self._warn(f"natural length: {error}")
            return
        view = natural_view(
            engine, prompts, engine.routing(subject.threshold_logit), end_ids=subject.end_ids,
            max_tokens=config.natural_tokens, budget_s=config.cell_budget_s, finder=subject.finder,
        )  # fmt: skip
        dtype = str(engine.dtype).removeprefix("torch.")
        self.document["natural"].append({"dtype": dtype, "weights": weights} | view)
        self._keep()

    def _rivals(self, model: Any, engine: AnyEngine) -> None:
        config = self.config
        try:
            (prompt,) = self.subject.texts.batches(min(config.batches), min(config.prompts), 1)
        except DataError as error:
            self._warn(f"rivals: {error}")
            return
        self.document["rivals"] += rivals.compare(
            model, engine, prompt.ids_BT, config.output_tokens, n_pairs=config.n_pairs,
            budget_s=config.cell_budget_s, with_compiled=config.use_compiled,
        )  # fmt: skip
        self._keep()


@contextlib.contextmanager
def _when_memory_runs_out() -> Iterator[None]:
    """Swallow errors that mean so, with the references that their traceback holds."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise


def _left_out(
    cell: Cell, reason: str, engine: AnyEngine | None, *, weights: str, params: dict[str, Any] | None = None,
    output_tokens: int | None = None,
) -> Row:  # fmt: skip
    return Row(
        phase=cell.phase, routing=cell.kind, requested_batch=cell.batch, batch=cell.batch, prompt=cell.prompt,
        backend="masked" if engine is None else backend_of(engine, cell.phase, cell.batch),
        output_tokens=output_tokens or None, dtype="" if engine is None else str(engine.dtype).removeprefix("torch."),
        weights=weights, group_rows=engine.group_rows if isinstance(engine, Engine) else 0,
        requested_skip_rate=cell.skip_rate, reason=reason, reason_params=params or {},
    )  # fmt: skip
