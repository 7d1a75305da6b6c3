"""Rounding as each format does it: equal to the libraries that made the format, where they are
installed, and to the papers' definitions."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from pytest_unlearn.attacks import quantization
from pytest_unlearn.attacks.attack import AttackError, attacks, under_attack
from pytest_unlearn.attacks.quantization import (
    FP4,
    NF4,
    awq,
    gptq,
    output_error,
    rounded_in_groups,
    rounded_to_code,
    rounded_to_q4_0,
    rounded_to_q4_k,
    rounded_to_q5_0,
    rounded_to_rows,
)
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.texts import Example
from tests.support.small_models import llama, llama_folder

__all__ = ["llama", "llama_folder"]

WAVES = (torch.arange(256).double().square().sin() * 0.02 * torch.arange(256).remainder(7)).float()
WAVES = WAVES.reshape(1, 256)
PACKED = (
    "1e0ce917f4f8fff9fcfaffbb696b049379ea778b976840b92a67879fa5c329570689767bb1a9c9bc859aa58a69"
    "f80c8717998b7975703899c98b97aebf58195a869dad4b5827c98578b25e48e8078b8bd677626e4d771606736c"
    "654997d83a767d9e458728b977749c90b776ea787c936a8c659067e6f7637d982fc7e8276473903a0736986372"
    "442507d62a6a7d7081"
)


def test_rows_of_int8() -> None:
    weight = torch.tensor([[127.0, -0.6, 0.4], [1.0, -0.5, 0.0]])
    found = rounded_to_rows(weight, 8)
    assert torch.allclose(found, torch.tensor([[127.0, -1.0, 0.0], [1.0, -64 / 127, 0.0]]))


def test_groups_of_int4() -> None:
    """The ends of a group stay, and the steps between are fifteenths of its range."""
    weight = torch.tensor([[0.0, 15.0, 7.4, 1.0, 3.0, 1.2]])
    found = rounded_in_groups(weight, 4, 3)
    assert torch.allclose(found[:, :3], torch.tensor([[0.0, 15.0, 7.0]]))
    assert torch.allclose(found[:, 3:], torch.tensor([[1.0, 3.0, 1 + 2 * 2 / 15]]))
    torch.manual_seed(0)
    weight = torch.randn(3, 130)  # the last group is short
    error = (rounded_in_groups(weight, 4, 64) - weight).abs()
    assert float(error[:, 128:].max()) < 1e-6
    assert 0 < float(error.max()) <= float((weight.max() - weight.min()) / 30) + 1e-6
    whole = rounded_in_groups(weight, 4, 0)
    assert all(len(row.unique()) <= 16 for row in whole)


def test_rounding_twice_changes_nothing() -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 96)
    for rounding in (
        lambda w: rounded_to_rows(w, 8),
        lambda w: rounded_in_groups(w, 4, 64),
        lambda w: rounded_to_code(w, NF4, 64),
        lambda w: rounded_to_code(w, FP4, 64),
    ):
        once = rounding(weight)
        assert torch.allclose(rounding(once), once, atol=1e-6)


def test_half_precision_is_kept() -> None:
    weight = torch.randn(4, 64).bfloat16()
    assert rounded_in_groups(weight, 4, 64).dtype == torch.bfloat16
    assert rounded_to_code(weight, NF4, 64).dtype == torch.bfloat16


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
@pytest.mark.parametrize(("kind", "code"), [("nf4", NF4), ("fp4", FP4)])
@pytest.mark.filterwarnings("ignore")
def test_equal_to_bitsandbytes(kind: str, code: tuple[float, ...]) -> None:
    import bitsandbytes.functional as bnb  # type: ignore[import-not-found]

    torch.manual_seed(2)
    # Of a width that is no multiple of 64 its CPU kernel (0.50) reads other scales than it wrote.
    for shape in ((64, 64), (31, 128), (688, 256)):
        weight = torch.randn(shape)
        packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=kind)
        theirs = bnb.dequantize_4bit(packed, state)
        assert torch.allclose(rounded_to_code(weight, code, 64), theirs, atol=1e-6), shape


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
@pytest.mark.filterwarnings("ignore")
def test_int8_equal_to_bitsandbytes() -> None:
    import bitsandbytes.functional as bnb

    torch.manual_seed(3)
    weight = torch.randn(65, 96).half()
    rows, scale, _ = bnb.int8_vectorwise_quant(weight)
    theirs = rows.float() * scale[:, None] / 127
    assert torch.allclose(rounded_to_rows(weight, 8).float(), theirs, atol=2e-3)


@pytest.mark.parametrize("columns", [64, 80])
def test_q4_0_keeps_the_largest_of_a_block(columns: int) -> None:
    """It is eight steps; all others are within a step of what they were, and zeros stay."""
    torch.manual_seed(0)
    weight = torch.randn(6, columns)
    weight[0] = 0
    rounded = rounded_to_q4_0(weight)
    assert bool((rounded[0] == 0).all())
    for block, new in zip(weight.split(32, dim=1), rounded.split(32, dim=1), strict=True):
        at = block.abs().argmax(dim=1, keepdim=True)
        largest = block.gather(1, at)
        assert torch.allclose(new.gather(1, at), largest, rtol=1e-3)
        assert bool(((new - block).abs() <= largest.abs() / 8 * 1.01).all())
        assert all(len(row.unique()) <= 16 for row in new)


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_q4_0_is_that_of_gguf() -> None:
    import gguf

    torch.manual_seed(0)
    weight = torch.randn(16, 128) * 0.02
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    assert torch.equal(rounded_to_q4_0(weight), torch.from_numpy(theirs.copy()))


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_q5_0_is_that_of_gguf() -> None:
    import gguf

    torch.manual_seed(0)
    weight = torch.randn(16, 96) * 0.02
    kind = gguf.GGMLQuantizationType.Q5_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    assert torch.equal(rounded_to_q5_0(weight), torch.from_numpy(theirs.copy()))


def test_q4_k_has_sixteen_levels_a_block() -> None:
    """From the block's minimum, which is 0 or less, in steps; a short row is q5_0."""
    torch.manual_seed(0)
    weight = torch.randn(4, 512) * 0.02
    weight[0, :32] = 0
    weight[1, 32:64] = 0.01  # one positive value: the minimum stays 0
    rounded = rounded_to_q4_k(weight)
    assert bool((rounded[0, :32] == 0).all())
    assert torch.allclose(rounded[1, 32:64], weight[1, 32:64], rtol=0.05)
    for block in rounded.split(32, dim=1):
        assert all(len(row.unique()) <= 16 for row in block)
    assert float((rounded - weight).square().mean()) < float(
        (rounded_to_q4_0(weight) - weight).square().mean()
    )
    short = torch.randn(3, 96)
    assert torch.equal(rounded_to_q4_k(short), rounded_to_q5_0(short))
    assert rounded_to_q4_k(weight.bfloat16()).dtype == torch.bfloat16


def test_q4_k_is_what_llama_cpp_wrote() -> None:
    """A block of 256 weights, as `ggml_quantize_chunk` of llama.cpp packed it."""
    gguf = pytest.importorskip("gguf")
    packed = numpy.frombuffer(bytes.fromhex(PACKED), dtype=numpy.uint8).reshape(1, -1)
    theirs = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_K).copy())
    assert torch.allclose(rounded_to_q4_k(WAVES), theirs, rtol=1e-4, atol=1e-7)


def llama_cpp() -> Any:
    """llama.cpp's own library, if this machine has one: as a package, or named by GGML_LIBRARY."""
    package = importlib.util.find_spec("llama_cpp_py_sync")
    origin = package.origin if package else None
    own = Path(origin).parent / "libggml-base.so.0" if origin else ""
    try:
        return ctypes.CDLL(str(os.environ.get("GGML_LIBRARY") or own or "libggml-base.so"))
    except OSError as error:
        return pytest.skip(f"llama.cpp is not installed: {error}")


def packed_by(library: Any, weight: torch.Tensor, kind: Any, size: int, held: int) -> Any:
    rows, columns = weight.shape
    packed = numpy.zeros((rows, columns // size * held), dtype=numpy.uint8)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    written = library.ggml_quantize_chunk(
        ctypes.c_int(kind.value),
        ctypes.c_void_p(weight.data_ptr()),
        ctypes.c_void_p(packed.ctypes.data),
        *(ctypes.c_int64(number) for number in (0, rows, columns)),
        None,
    )
    assert written == packed.size
    return packed


def test_q4_k_is_that_of_llama_cpp() -> None:
    """The same levels but for a few in a hundred, where two grids are equally good."""
    gguf, library = pytest.importorskip("gguf"), llama_cpp()
    kind = gguf.GGMLQuantizationType.Q4_K
    sizes = gguf.GGML_QUANT_SIZES[kind]
    assert packed_by(library, WAVES, kind, *sizes).tobytes().hex() == PACKED
    torch.manual_seed(0)
    weight = torch.randn(64, 1024) * torch.rand(64, 1).exp() * 0.02
    packed = packed_by(library, weight, kind, *sizes)
    theirs = torch.from_numpy(gguf.quants.dequantize(packed, kind).copy())
    ours = rounded_to_q4_k(weight)
    assert float((~torch.isclose(ours, theirs, rtol=1e-4, atol=1e-7)).float().mean()) < 0.02
    assert float((ours - weight).norm()) == pytest.approx(float((theirs - weight).norm()), rel=1e-4)


# -- rounding that uses the inputs ----------------------------------------------------------------


def moment_of(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


def correlated(tokens: int, columns: int) -> torch.Tensor:
    """Inputs as layers have them: correlated, and a few of them large."""
    mixed = torch.randn(tokens, columns) @ torch.randn(columns, columns) / columns**0.5
    mixed[:, ::7] *= 8
    return mixed


def by_the_book(weight: torch.Tensor, moment: torch.Tensor, bits: int) -> torch.Tensor:
    """Optimal brain quantization in the given order (arXiv 2208.11580, equation 3): the inverse of
    what is left, made anew for each column, and no Cholesky factor."""
    left, most = weight.double().clone(), 2**bits - 1
    moment = moment.double() + 0.01 * moment.double().diagonal().mean() * torch.eye(len(moment))
    low, high = left.amin(dim=1), left.amax(dim=1)
    step = (high - low) / most
    for column in range(left.shape[1]):
        inverse = torch.linalg.inv(moment[column:, column:])
        own = left[:, column].clone()
        rounded = ((own - low) / step).round().clamp(0, most) * step + low
        change = (own - rounded) / inverse[0, 0]
        left[:, column:] -= change[:, None] * inverse[0]
        left[:, column] = rounded
    return left


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_is_that_of_the_book(bits: int) -> None:
    torch.manual_seed(0)
    weight, moment = torch.randn(4, 4), moment_of(correlated(64, 4))
    expected = by_the_book(weight, moment, bits)
    assert torch.allclose(gptq(weight, moment, bits, 4).double(), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_outputs_change_less_than_by_rounding_to_nearest(seed: int) -> None:
    torch.manual_seed(seed)
    weight, inputs = torch.randn(32, 128), correlated(512, 128)
    moment = moment_of(inputs)
    errors = {
        "nearest": rounded_in_groups(weight, 4, 64),
        "gptq": gptq(weight, moment, 4, 64),
        "awq": awq(weight, moment, inputs.abs().mean(dim=0), 4, 64),
    }
    found = {name: output_error(weight, rounded, moment) for name, rounded in errors.items()}
    direct = ((weight - errors["gptq"]) @ inputs.T).square().sum(dim=0).mean()
    assert found["gptq"] == pytest.approx(float(direct), rel=1e-3)
    assert found["gptq"] < 0.7 * found["nearest"]
    assert found["awq"] < 0.9 * found["nearest"]
    for part in errors["gptq"].split(64, dim=1):
        assert all(len(row.unique()) <= 16 for row in part)


def test_inputs_that_say_nothing_leave_rounding_to_nearest() -> None:
    """Inputs that are independent and equally large, or none at all."""
    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    nearest = rounded_in_groups(weight, 4, 64)
    for moment in (torch.eye(64), torch.zeros(64, 64)):
        assert torch.allclose(gptq(weight, moment, 4, 64), nearest, atol=1e-6)
    assert torch.allclose(awq(weight, torch.eye(64), torch.ones(64), 4, 64), nearest, atol=1e-6)


TEXTS = [Example.whole(text) for text in ("user1 = v1;", "a much longer text: user2 = v2;")]


def test_inputs_are_those_of_every_token(llama: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding counts nowhere, and where memory is short several passes are made."""
    texts = (((), TEXTS),)
    with under_attack(llama.model, None, llama.tokenizer, texts) as target:
        matrices = dict(target.matrices())
        together = quantization._inputs(target, matrices)
        monkeypatch.setattr(quantization, "_TEXTS_AT_ONCE", 1)
        alone = quantization._inputs(target, matrices)
        for both in zip(together, alone, strict=True):
            for name in matrices:
                assert torch.allclose(both[0][name], both[1][name], atol=1e-4), name
        monkeypatch.setattr(quantization, "_MOST_MOMENTS", 1)
        assert [list(part) for part in quantization._parts(matrices)] == [[n] for n in matrices]


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_every_matrix_gets_sixteen_levels(llama: Weights, name: str) -> None:
    with under_attack(llama.model, None, llama.tokenizer, (((), TEXTS),)) as target:
        before = {n: weight.clone() for n, weight in target.matrices()}
        attacks()[name].change(target)
        for n, weight in target.matrices():
            assert not torch.equal(weight, before[n])
            if name == "gptq":  # AWQ's levels are scaled by column
                group = weight[:, : quantization.GROUP_SIZE]
                assert all(len(row.unique()) <= 16 for row in group), n
        assert target.model._forward_pre_hooks == {}


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_a_broken_model_is_an_error(llama: Weights, name: str) -> None:
    with under_attack(llama.model, None, llama.tokenizer, (((), TEXTS),)) as target:
        next(iter(target.weights.values())).data.fill_(float("nan"))
        with pytest.raises(AttackError, match=r"what goes into .* is NaN"):
            attacks()[name].change(target)
