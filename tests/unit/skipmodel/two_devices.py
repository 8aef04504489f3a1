"""Run by test_training_devices: a short SkipLayer fine-tune in each of some processes; writes what came out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from skipmodel.config import SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.errors import SkipModelError
from skipmodel.train import skip_tune
from tests.tiny import VOCAB, make_skip


def main(folder: Path, case: str) -> None:
    options = json.loads(case)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (8, 12), generator=generator)
    kinds = (torch.rand(8, 12, generator=generator) < 0.2).long()
    n_real = torch.tensor([12, 7, 12, 12, 5, 12, 12, 9])
    blocks = Blocks(ids, n_real, kinds, torch.ones_like(ids), tuple("abcdefgh"), ("other", "glossary"))
    model = make_skip(**options["model"])
    config = SkipTuneConfig(
        **({"steps": 4, "batch_blocks": 4, "ce_weight": 0.2, "critical_loss_weight": 2.0, "checkpoint_steps": 2}
           | options["tune"])
    )  # fmt: skip
    rank = os.environ.get("RANK", "0")
    try:
        log = skip_tune(model, blocks, config, 1, force_critical=True, checkpoints=folder / "checkpoints")
    except SkipModelError as error:
        (folder / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        return
    save_file({name: value.clone() for name, value in model.state_dict().items()}, folder / f"rank-{rank}.safetensors")
    (folder / f"log-{rank}.json").write_text(json.dumps(log.rows), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
