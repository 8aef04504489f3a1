"""A weight matrix, laid out and multiplied the way that is fastest where it lies.

What decides on a CPU (2 cores with AVX2, measured; other machines differ in size, not in kind):

- One row times a float32 matrix is bound by reading the matrix. Stored as (inputs, outputs) the library reads it at
  twice the speed of (outputs, inputs), wherever there are at least as many outputs as inputs.
- Two to 128 rows are bound by reading, too, but the library first copies the matrix into blocks, at every call. Kept
  in blocks (oneDNN), the matrix is multiplied with four rows in the time of one: two to five times as fast. From
  some hundred rows on both are alike. The blocks are a second copy; it is made when first needed, so a process that
  reads long prompts and decodes one sequence never has it.
- Without bfloat16 units, products of several rows are computed bfloat16 number by number: ten times slower than
  turning the matrix to float32 for the moment, which costs less than a single row does. Up to 128 rows the blocks are
  float32, too.
- The int8 kernel is made for a few rows; beyond, the same detour through float32 is faster.

Legend: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from skipmodel.int8 import round_to_int8

FEW_ROWS = 2
"""bfloat16 rows up to which the detour through float32 does not pay on a CPU without bfloat16 units."""
FEW_ROWS_INT8 = 16
"""The same for int8."""
BLOCKED_ROWS = range(2, 129)
"""Numbers of rows that are multiplied with the matrix in blocks."""
_BLOCKED_FOR = 8  # rows that the blocks are shaped for; others run as well


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether products of bfloat16 numbers run in hardware: any GPU, and CPUs that say so."""
    if device.type != "cpu":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keeps_blocks(device: torch.device) -> bool:
    """Whether matrices can be kept in the blocks of oneDNN: CPUs, where torch has been built with it."""
    has_product = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return device.type == "cpu" and has_product


class Matrix:
    """Computes x W^T + b for some rows or a single one; `part` shares the storage.

    Args:
        weight_OI: The weights, in the model's number format.
        bias_O: Added to the product.
        is_int8: Keep int8 codes and a scale per output instead. The scale is rounded to bfloat16 *before* the
            codes are chosen, so that the kernel, which takes it so, loses nothing.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, is_int8: bool = False) -> None:
        self.n_outputs, self.bias_O = len(weight_OI), bias_O
        self.dtype = weight_OI.dtype
        self.scale_O: Tensor | None = None
        if is_int8:
            weight_OI, scale_O1 = round_to_int8(weight_OI, torch.bfloat16)
            self.scale_O = scale_O1[:, 0]
        elif self._reads_faster_by_input(weight_OI):
            weight_OI = weight_OI.t().contiguous().t()
        else:
            weight_OI = weight_OI.contiguous()
        self.weight_OI = weight_OI
        self._blocks: Tensor | None = None
        self._detour = weight_OI.device.type == "cpu" and (
            is_int8 or (self.dtype == torch.bfloat16 and not has_bfloat16_units(weight_OI.device))
        )
        is_float32 = self.dtype == torch.float32 or self._detour
        self._may_block = is_float32 and not is_int8 and keeps_blocks(weight_OI.device)

    @staticmethod
    def _reads_faster_by_input(weight_OI: Tensor) -> bool:
        n_outputs, n_inputs = weight_OI.shape
        return weight_OI.dtype == torch.float32 and weight_OI.device.type == "cpu" and n_outputs >= n_inputs

    def part(self, first: int, end: int) -> Matrix:
        """Return outputs `first` to `end` as a matrix of its own, without a copy (blocks are its own)."""
        other = object.__new__(Matrix)
        other.__dict__.update(self.__dict__)
        other._blocks = None
        other.n_outputs = end - first
        other.weight_OI = self.weight_OI[first:end]
        other.bias_O = None if self.bias_O is None else self.bias_O[first:end]
        other.scale_O = None if self.scale_O is None else self.scale_O[first:end]
        return other

    def rows(self, x_NI: Tensor) -> Tensor:
        """Multiply some rows, (N, I) to (N, O)."""
        if self._may_block and len(x_NI) in BLOCKED_ROWS:
            return self._biased(self._in_blocks(x_NI.float())).to(x_NI.dtype)
        if self._detour and len(x_NI) > (FEW_ROWS if self.scale_O is None else FEW_ROWS_INT8):
            product_NO = linear(x_NI.float(), self.weight_OI.float())
            if self.scale_O is not None:
                product_NO *= self.scale_O.float()
            return self._biased(product_NO).to(x_NI.dtype)
        if self.scale_O is not None:
            return self._int8_rows(x_NI)
        return linear(x_NI, self.weight_OI, self.bias_O)

    def vector(self, x_I: Tensor) -> Tensor:
        """Multiply one row, (I,) to (O,)."""
        if self.scale_O is not None:
            return self._int8_rows(x_I[None])[0]
        return self._biased(torch.mv(self.weight_OI, x_I))

    def add_vector(self, sum_O: Tensor, x_I: Tensor) -> Tensor:
        """Return `sum_O` plus the product of one row."""
        if self.scale_O is not None or self.dtype != torch.float32:
            return sum_O + self.vector(x_I)  # addmv is three times as slow as product and sum in bfloat16
        return torch.addmv(self._biased(sum_O), self.weight_OI, x_I)

    def _in_blocks(self, x_NI: Tensor) -> Tensor:
        if self._blocks is None:
            self._blocks = torch.ops.mkldnn._reorder_linear_weight(self.weight_OI.float().contiguous(), _BLOCKED_FOR)
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._blocks, None, "none", [], "")

    def _int8_rows(self, x_NI: Tensor) -> Tensor:
        if self.scale_O is None:
            raise AssertionError("only int8 matrices have codes")
        if x_NI.device.type == "cpu":
            product_NO = torch._weight_int8pack_mm(x_NI.bfloat16(), self.weight_OI, self.scale_O)
        else:
            product_NO = linear(x_NI, self.weight_OI.to(x_NI.dtype)) * self.scale_O
        return self._biased(product_NO.to(x_NI.dtype))

    def _biased(self, product_NO: Tensor) -> Tensor:
        return product_NO if self.bias_O is None else product_NO + self.bias_O
