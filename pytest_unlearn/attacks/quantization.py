"""Attacks by quantization: weights rounded to the grid of a smaller format and back.

Rounding, which anyone does to run a model on a small machine, can undo unlearning that moved each
weight by less than a step (arXiv 2410.16454). Only the rounding is done here, in plain torch and on
any device, so no library and no GPU is needed. NF4 and FP4 round like bitsandbytes, q4_0 and q4_k
like llama.cpp, which tests check where these are installed.

GPTQ and AWQ need the inputs of each matrix, so they first run texts through the model: documents of
retained people whom unlearning trains on, never of people whom gates count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_unlearn.attacks.attack import Attack, AttackError, Target

if TYPE_CHECKING:
    import torch

# The number of weights that share a scale.
GROUP_SIZE = 64
# llama.cpp's: the number of weights that share a scale, and of blocks whose scales are stored
# together.
_BLOCK, _SUPER = 32, 256
# The quantiles of a normal distribution, scaled to 1 (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Sign, two bits of exponent and one of mantissa, scaled to 1 (bitsandbytes).
_FP4_HALF = (0.0, 0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)
FP4 = tuple(sorted({sign * level for level in _FP4_HALF for sign in (-1, 1)}))


def rounded_to_rows(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return `[rows, columns]` rounded to a symmetric grid with one scale per row (LLM.int8)."""
    most = 2 ** (bits - 1) - 1
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / most
    rounded: torch.Tensor = (weight.float() / scale).round() * scale
    return rounded.to(weight.dtype)


def rounded_in_groups(weight: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """Return `[rows, columns]` rounded to a grid from the minimum to the maximum of each group.

    `size`: columns in a group, 0 for whole rows; the last group of a row may be shorter.
    """
    import torch

    size = size or weight.shape[1]
    parts = []
    for group in torch.split(weight.float(), size, dim=1):
        low, step = _grid(group, bits)
        parts.append(((group - low) / step).round() * step + low)
    return torch.cat(parts, dim=1).to(weight.dtype)


def _grid(group: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the minimum of each row, and the step of its grid; both `[rows, 1]`."""
    low, high = group.amin(dim=1, keepdim=True), group.amax(dim=1, keepdim=True)
    return low, ((high - low) / (2**bits - 1)).clamp(min=1e-12)


def rounded_to_code(weight: torch.Tensor, code: Sequence[float], size: int) -> torch.Tensor:
    """Return a weight rounded to the nearest level of a code times its block's greatest size.

    Blocks are `size` weights in a row of memory, over the ends of rows, as bitsandbytes takes them.
    """
    import torch

    levels = torch.tensor(code, dtype=torch.float32, device=weight.device)
    flat = weight.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % size)).reshape(-1, size)
    scale = padded.abs().amax(dim=1, keepdim=True)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize(padded / scale.clamp(min=1e-30), middles)]
    return (nearest * scale).reshape(-1)[: len(flat)].reshape(weight.shape).to(weight.dtype)


def rounded_to_q4_0(weight: torch.Tensor) -> torch.Tensor:
    """Return `[rows, columns]` rounded as llama.cpp's q4_0: 32 of a row share a scale in float16.

    The largest weight of a block, by size, is eight steps.
    """
    return _rounded_around_zero(weight, 8)


def rounded_to_q5_0(weight: torch.Tensor) -> torch.Tensor:
    """The same with 5 bits: the largest weight of a block is sixteen steps."""
    return _rounded_around_zero(weight, 16)


def _rounded_around_zero(weight: torch.Tensor, most: int) -> torch.Tensor:
    import torch

    parts = []
    for block in torch.split(weight.double(), _BLOCK, dim=1):
        largest = block.gather(1, block.abs().argmax(dim=1, keepdim=True))
        step = largest.float() / -most
        inverse = torch.where(step == 0, 0.0, 1 / step).double()
        levels = (block * inverse + most + 0.5).trunc().clamp(0, 2 * most - 1)
        parts.append((levels - most) * step.half().double())
    return torch.cat(parts, dim=1).to(weight.dtype)


def rounded_to_q4_k(weight: torch.Tensor) -> torch.Tensor:
    """Return `[rows, columns]` rounded as llama.cpp's q4_K: 4 bits, a scale and a minimum for 32.

    The scales and minimums of 256 weights are 6-bit multiples of two numbers in float16. As there,
    rows that are not cut into 256 are rounded to q5_0.
    """
    import torch

    if weight.shape[1] % _SUPER:
        return rounded_to_q5_0(weight)
    blocks = weight.float().reshape(-1, _SUPER // _BLOCK, _BLOCK)
    scales, lows = _fitted(blocks)
    units = []
    for numbers in (scales, lows):
        most = numbers.amax(dim=1, keepdim=True).clamp(min=0)
        inverse = torch.where(most > 0, 63 / most, 0.0)
        steps = (inverse * numbers).round().clamp(0, 63)
        units.append(((most / 63).half().float() * steps)[..., None])
    step, low = units
    levels = torch.where(step == 0, 0.0, (blocks + low) / step).round().clamp(0, 15)
    return (levels * step - low).reshape(weight.shape).to(weight.dtype)


def _fitted(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scale and the minimum, with its sign changed, of each block (`make_qkx2_quants`).

    Of 22 grids, the one with the smallest squared error, large weights counting more. Each but the
    first starts from the best minimum so far, and is fitted to its levels by least squares. The
    minimum is never over 0.
    """
    import torch

    weights = blocks.abs() + blocks.square().mean(dim=-1, keepdim=True).sqrt()
    low, high = blocks.amin(dim=-1, keepdim=True).clamp(max=0), blocks.amax(dim=-1, keepdim=True)

    def added(numbers: torch.Tensor) -> torch.Tensor:
        return (weights * numbers).sum(dim=-1, keepdim=True)

    def levels_of(steps: float) -> torch.Tensor:
        inverse = torch.where(high > low, steps / (high - low), 0.0)
        return (inverse * (blocks - low)).round().clamp(0, 15)

    scale = (high - low) / 15
    error = added((scale * levels_of(15.0) + low - blocks).square())
    total, first = weights.sum(dim=-1, keepdim=True), added(blocks)
    for number in range(21):
        levels = levels_of(14.0 + 0.1 * number)
        mean, square, product = added(levels), added(levels.square()), added(levels * blocks)
        spread = total * square - mean.square()
        fitted, least = total * product - first * mean, square * first - mean * product
        fitted = torch.where(least > 0, product / square, fitted / spread)
        least = (least / spread).clamp(max=0)
        new_error = added((fitted * levels + least - blocks).square())
        better = (spread > 0) & (new_error < error)
        scale, low = torch.where(better, fitted, scale), torch.where(better, least, low)
        error = torch.where(better, new_error, error)
    return scale[..., 0], -low[..., 0]


# -- rounding that uses the inputs -------------------------------------------------------------

# GPTQ's and AWQ's own number of texts.
CALIBRATION_TEXTS = 128
_MOST_TOKENS = 512
_TEXTS_AT_ONCE = 16
# The most numbers in second moments that are held at once: 1 GiB. With more, the matrices are
# rounded in several passes, the later ones on the outputs of the rounded ones.
_MOST_MOMENTS = 2**28
# Of the mean of the diagonal, added to it so that it can be inverted (GPTQ's `percdamp`).
_DAMPING = 0.01
# The powers of the activations that AWQ tries: 0, 0.05, ..., 0.95.
_AWQ_STEPS = 20


def gptq(weight: torch.Tensor, moment: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """Return `[rows, columns]` rounded as GPTQ does (arXiv 2210.17323).

    Columns are rounded one after the other, and the columns that follow compensate for the change
    in the outputs. `moment`: the inputs' second moment `[columns, columns]`, the mean of x x^T. The
    grid of a group of `size` columns is taken when its turn comes. Inputs that are always 0 are
    rounded to nearest.
    """
    import torch

    left, moment = weight.double().clone(), moment.double().clone()
    diagonal = moment.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal.add_(_DAMPING * float(diagonal.mean()))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for column in range(left.shape[1]):
        if column % size == 0:
            low, step = (each[:, 0] for each in _grid(left[:, column : column + size], bits))
        own = left[:, column].clone()
        rounded = ((own - low) / step).round().clamp(0, 2**bits - 1) * step + low
        error = (own - rounded) / factor[column, column]
        left[:, column:] -= error[:, None] * factor[column, column:]
        left[:, column] = rounded
    return left.to(weight.dtype)


def awq(
    weight: torch.Tensor, moment: torch.Tensor, means: torch.Tensor, bits: int, size: int
) -> torch.Tensor:
    """Return `[rows, columns]` rounded as AWQ does (arXiv 2306.00978).

    Columns whose inputs are large are scaled up before they are rounded in groups of `size`, and
    down again. `means`: the mean size of each input, `[columns]`; the scale is a power of it, the
    one of which the outputs change least. Power 0 is rounding to nearest.
    """
    import torch

    best, least = rounded_in_groups(weight, bits, size), torch.inf
    sizes = means.float().clamp(min=1e-4)
    for number in range(_AWQ_STEPS):
        scale = sizes ** (number / _AWQ_STEPS)
        scale = scale / (scale.max() * scale.min()).sqrt()
        rounded = rounded_in_groups(weight.float() * scale, bits, size) / scale
        error = output_error(weight, rounded, moment)
        if error < least:
            best, least = rounded.to(weight.dtype), error
    return best


def output_error(weight: torch.Tensor, rounded: torch.Tensor, moment: torch.Tensor) -> float:
    """Return the mean squared change of each output, summed over all outputs."""
    change = weight.double() - rounded.double()
    return float(((change @ moment.double()) * change).sum())


def _with_inputs(
    rounding: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[Target], None]:
    def change(target: Target) -> None:
        matrices = dict(target.matrices())
        # Experts in one tensor are not modules, so the inputs of each are not seen.
        apart = {name: weight for name, weight in matrices.items() if name.endswith("]")}
        for weight in apart.values():
            weight.copy_(rounded_in_groups(weight, 4, GROUP_SIZE))
        for part in _parts({n: w for n, w in matrices.items() if n not in apart}):
            moments, means = _inputs(target, part)
            for name, weight in part.items():
                weight.copy_(rounding(weight, moments[name], means[name]))

    return change


def _parts(matrices: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield matrices, in the model's order, as many at once as `_MOST_MOMENTS` allows."""
    part: dict[str, torch.Tensor] = {}
    held = 0
    for name, weight in matrices.items():
        needed = weight.shape[1] ** 2
        if part and held + needed > _MOST_MOMENTS:
            yield part
            part, held = {}, 0
        part[name] = weight
        held += needed
    if part:
        yield part


def _inputs(
    target: Target, matrices: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return, by matrix, the second moment of its inputs `[columns, columns]` and their mean size
    `[columns]`, both float32, over the tokens of the target's texts. Padding is left out."""
    import torch

    from pytest_unlearn.models.batches import encode, padded
    from pytest_unlearn.models.generation import context_of
    from pytest_unlearn.models.lm_head import inputs_seen
    from pytest_unlearn.models.texts import Example

    most = min(_MOST_TOKENS, context_of(target.model) or _MOST_TOKENS)
    texts = [example.text for _, part in target.texts for example in part]
    rows = sorted(
        (encode(target.tokenizer, Example.whole(text), most).ids for text in texts), key=len
    )
    moments = {n: torch.zeros(w.shape[1], w.shape[1], device=w.device) for n, w in matrices.items()}
    sizes = {n: torch.zeros(w.shape[1], device=w.device) for n, w in matrices.items()}
    counts = dict.fromkeys(matrices, 0)
    real = torch.zeros(0)

    def add(name: str, inputs: torch.Tensor) -> None:
        given = inputs.float()
        flat = given[real] if given.shape[:2] == real.shape else given.flatten(0, -2)
        moments[name] += flat.T @ flat
        sizes[name] += flat.abs().sum(dim=0)
        counts[name] += len(flat)

    layers = {name: target.model.get_submodule(name.removesuffix(".weight")) for name in matrices}
    with inputs_seen(layers, add), torch.no_grad():
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            ids, mask = padded(rows[start : start + _TEXTS_AT_ONCE], 0, target.model.device)
            real = mask.bool()
            target.model(input_ids=ids, attention_mask=mask)
    for name, count in counts.items():
        moments[name] /= max(1, count)
        sizes[name] /= max(1, count)
        if not bool(moments[name].isfinite().all()):
            raise AttackError(f"what goes into {name} is NaN or infinite: the model is broken")
    return moments, sizes


def _each(rounding: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Target], None]:
    def change(target: Target) -> None:
        for _, weight in target.matrices():
            weight.copy_(rounding(weight))

    return change


# Raised when experts in one tensor, and linear layers of a model's own class, became matrices too.
_VERSION = 2
ATTACKS = (
    Attack(
        "int8",
        "weights rounded to 8 bits, one scale per row, as LLM.int8 stores them (arXiv 2208.07339)",
        _each(functools.partial(rounded_to_rows, bits=8)),
        effort="cheap",
        version=_VERSION,
    ),
    Attack(
        "int4",
        f"weights rounded to 4 bits, one range for each {GROUP_SIZE} weights of a row, as in GPTQ "
        "and AWQ (arXiv 2210.17323)",
        _each(functools.partial(rounded_in_groups, bits=4, size=GROUP_SIZE)),
        effort="cheap",
        version=_VERSION,
    ),
    Attack(
        "int4-row",
        "weights rounded to 4 bits, one range per row",
        _each(functools.partial(rounded_in_groups, bits=4, size=0)),
        version=_VERSION,
    ),
    Attack(
        "nf4",
        "weights rounded to NF4 as QLoRA stores them (bitsandbytes, arXiv 2305.14314)",
        _each(functools.partial(rounded_to_code, code=NF4, size=GROUP_SIZE)),
        version=_VERSION,
    ),
    Attack(
        "fp4",
        "weights rounded to FP4 (bitsandbytes)",
        _each(functools.partial(rounded_to_code, code=FP4, size=GROUP_SIZE)),
        version=_VERSION,
    ),
    Attack(
        "q4_0",
        "weights rounded to q4_0 as in GGUF files (llama.cpp), one scale for each 32 weights of "
        "a row",
        _each(rounded_to_q4_0),
        version=_VERSION,
    ),
    Attack(
        "q4_k",
        "weights rounded to q4_K as in GGUF files (llama.cpp): a 6-bit scale and minimum for "
        "each 32 weights of a row; q5_0 if a row is not a multiple of 256",
        _each(rounded_to_q4_k),
        version=_VERSION,
    ),
    Attack(
        "gptq",
        "weights rounded to 4 bits by GPTQ, the next columns compensating for each column's "
        f"error, groups of {GROUP_SIZE}, calibrated on documents of retained people (arXiv "
        "2210.17323); experts in one tensor as by int4",
        _with_inputs(lambda weight, moment, _: gptq(weight, moment, 4, GROUP_SIZE)),
        calibrates=True,
        version=_VERSION,
    ),
    Attack(
        "awq",
        "weights rounded to 4 bits by AWQ, columns with large inputs scaled up, groups of "
        f"{GROUP_SIZE}, calibrated on documents of retained people (arXiv 2306.00978); experts in "
        "one tensor as by int4",
        _with_inputs(lambda weight, moment, sizes: awq(weight, moment, sizes, 4, GROUP_SIZE)),
        calibrates=True,
        version=_VERSION,
    ),
)
