"""Matrices of the engine: every layout and number format multiplies alike, in parts, by rows and one at a time."""

from __future__ import annotations

import pytest
import torch

from skipmodel.engine import matrix as module
from skipmodel.engine.matrix import Matrix

FORMATS = {"float32": (torch.float32, False, 1e-5), "bfloat16": (torch.bfloat16, False, 2e-2),
           "int8": (torch.bfloat16, True, 2e-2), "int8 of float32": (torch.float32, True, 2e-2)}  # fmt: skip


def exact(matrix: Matrix, x_NI: torch.Tensor) -> torch.Tensor:
    """Multiply in float64 what the matrix really holds."""
    weight_OI = matrix.weight_OI.double()
    if matrix.scale_O is not None:
        weight_OI = weight_OI * matrix.scale_O.double()[:, None]
    product_NO = x_NI.double() @ weight_OI.t()
    return product_NO if matrix.bias_O is None else product_NO + matrix.bias_O.double()


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(96, 32), (32, 96), (64, 64)])
@pytest.mark.parametrize("name", FORMATS)
def test_products_are_those_of_the_weights(name: str, n_outputs: int, n_inputs: int, has_bias: bool) -> None:
    """Many rows, few rows, one row, a sum with one row and a part of the outputs: all the same map."""
    dtype, is_int8, limit = FORMATS[name]
    torch.manual_seed(1)
    bias = torch.randn(n_outputs).to(dtype) if has_bias else None
    matrix = Matrix(torch.randn(n_outputs, n_inputs).to(dtype), bias, is_int8=is_int8)
    x_NI = torch.randn(200, n_inputs).to(dtype)
    start_O = torch.randn(n_outputs).to(dtype)
    expected = exact(matrix, x_NI)
    part, low, high = matrix.part(8, 24), 8, 24

    def near(got: torch.Tensor, reference: torch.Tensor) -> None:
        assert got.dtype == dtype
        assert float((got.double() - reference).abs().max()) <= limit * float(expected.std())

    near(matrix.rows(x_NI), expected)
    for n_rows in (1, 2, 3, 40, 128, 129):
        near(matrix.rows(x_NI[:n_rows]), expected[:n_rows])
    near(matrix.vector(x_NI[3]), expected[3])
    near(matrix.add_vector(start_O, x_NI[4]), expected[4] + start_O.double())
    near(part.rows(x_NI), expected[:, low:high])
    near(part.rows(x_NI[:7]), expected[:7, low:high])
    near(part.vector(x_NI[5]), expected[5, low:high])
    assert part.n_outputs == high - low
    assert part.weight_OI.untyped_storage().data_ptr() == matrix.weight_OI.untyped_storage().data_ptr()


@pytest.mark.skipif(not module.keeps_blocks(torch.device("cpu")), reason="torch without oneDNN")
def test_blocks_are_made_when_first_needed() -> None:
    """One row and long prompts leave a matrix without a second copy; parts have blocks of their own."""
    matrix = Matrix(torch.randn(32, 16))
    part = matrix.part(0, 8)
    matrix.rows(torch.randn(200, 16)), matrix.rows(torch.randn(1, 16)), matrix.vector(torch.randn(16))
    assert matrix._blocks is None
    matrix.rows(torch.randn(4, 16)), part.rows(torch.randn(4, 16))
    assert matrix._blocks is not None
    assert part._blocks is not matrix._blocks


def test_int8_codes_lose_at_most_half_a_step() -> None:
    """Each weight is within half a scale of its code; scales are numbers that bfloat16 has."""
    torch.manual_seed(2)
    weight_OI = torch.randn(32, 64) * torch.logspace(-3, 3, 32)[:, None]
    matrix = Matrix(weight_OI, is_int8=True)
    scale_O = matrix.scale_O

    assert scale_O is not None
    assert (matrix.weight_OI.dtype, scale_O.dtype) == (torch.int8, torch.bfloat16)
    error_OI = (matrix.weight_OI.float() * scale_O.float()[:, None] - weight_OI).abs() / scale_O.float()[:, None]
    inner = matrix.weight_OI.abs() < 127
    assert float(error_OI[inner].max()) <= 0.5 + 1e-3
    assert float(error_OI.max()) <= 1.0  # the largest of a channel may lie a little beyond 127 rounded scales


@pytest.mark.parametrize("has_units", [False, True])
def test_bfloat16_takes_the_detour_only_without_units(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    """With bfloat16 hardware, or for a single row, products stay in bfloat16; else several rows go through float32."""
    monkeypatch.setattr(module, "has_bfloat16_units", lambda device: has_units)
    seen: list[torch.dtype] = []

    def spy(x: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        seen.append(x.dtype)
        return torch.nn.functional.linear(x, *rest)

    monkeypatch.setattr(module, "linear", spy)
    matrix = Matrix(torch.randn(8, 8).bfloat16())
    matrix.rows(torch.randn(1, 8).bfloat16())
    matrix.rows(torch.randn(300, 8).bfloat16())

    assert seen == [torch.bfloat16, torch.bfloat16 if has_units else torch.float32]


def test_wide_float32_is_kept_by_input() -> None:
    """Where outputs number at least the inputs, float32 on a CPU lies input by input, which reads faster."""
    wide, tall = Matrix(torch.randn(16, 4)), Matrix(torch.randn(4, 16))

    assert wide.weight_OI.t().is_contiguous()
    assert tall.weight_OI.is_contiguous()
