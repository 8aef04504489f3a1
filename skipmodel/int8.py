"""Weight-only int8, the rival that a buyer would pick first. `quantise` is for its quality; the engine runs the codes.

Per output channel o of a linear map, symmetric, round to nearest:

    scale_o = max_i |w_oi| / 127
    code_oi = round(w_oi / scale_o), within -127..127
    w'_oi   = code_oi * scale_o

so that no weight moves by more than scale_o / 2. Embeddings and the vocabulary matrix keep their values, as in
common weight-only schemes; activations are not rounded.

Legend: O output channels, I input channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skipmodel.families import decoder_layers

LARGEST_CODE = 127


def round_to_int8(weight_OI: Tensor, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return int8 codes (O, I) and scales (O, 1); a channel of zeros has scale 0 and codes 0.

    Scales are rounded to `scale_dtype` first and codes chosen for the rounded ones, so nothing is lost by that.
    """
    weight = weight_OI.detach().float()
    scale_O1 = (weight.abs().amax(1, keepdim=True) / LARGEST_CODE).to(scale_dtype)
    codes_OI = (weight / scale_O1.float().clamp_min(torch.finfo(torch.float32).tiny)).round()
    return codes_OI.clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8), scale_O1


@torch.no_grad()
def quantise(causal_lm: nn.Module) -> int:
    """Round the weights of every linear map inside the decoder layers, in place; return how many maps there were.

    The rounded values are stored in the model's own dtype, so that every engine runs them.
    """
    from transformers.pytorch_utils import Conv1D

    n_maps = 0
    for module in decoder_layers(causal_lm).modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight: Any = module.weight
            is_transposed = isinstance(module, Conv1D)  # GPT-2 keeps its matrices as (in, out)
            codes_OI, scale_O1 = round_to_int8(weight.T if is_transposed else weight)
            rounded_OI = codes_OI.float() * scale_O1
            weight.copy_(rounded_OI.T if is_transposed else rounded_OI)
            n_maps += 1
    return n_maps
