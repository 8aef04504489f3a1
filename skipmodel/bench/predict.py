"""How long a cell will take, from a short probe: a cell that would use its budget up on one run is not begun."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from skipmodel.engine.calibration import synchronise
from skipmodel.engine.engagement import Phase
from skipmodel.engine.masked import AnyEngine

PROBE_TOKENS = 64


class Predictor:
    """Predicts seconds of dense runs of one engine; every probe is made once."""

    def __init__(self, engine: AnyEngine) -> None:
        self.engine = engine
        self._step_s: dict[int, float] = {}
        self._token_s: float | None = None

    def run_s(self, phase: Phase, batch: int, prompt: int, output_tokens: int, n_texts: int) -> float:
        """Return the seconds of one dense run, for decoding with the reading of all prompts before it."""
        read_s = self._read_token_s() * batch * prompt
        return read_s if phase == "prefill" else read_s * n_texts + self._decode_step_s(batch) * output_tokens

    def _read_token_s(self) -> float:
        if self._token_s is None:
            ids_BT = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device=self.engine.device)
            self._token_s = self._second(lambda: self.engine.hidden(ids_BT)) / PROBE_TOKENS
        return self._token_s

    def _decode_step_s(self, batch: int) -> float:
        if batch not in self._step_s:
            ids_BT = torch.zeros(batch, 1, dtype=torch.long, device=self.engine.device)
            self._step_s[batch] = self._second(lambda: self.engine.hidden(ids_BT))
        return self._step_s[batch]

    def _second(self, call: Callable[[], object]) -> float:
        """Return the seconds of the second call: the first finds everything cold."""
        call()
        synchronise(self.engine)
        start = time.perf_counter()
        call()
        synchronise(self.engine)
        return time.perf_counter() - start
