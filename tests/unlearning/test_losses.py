"""Golden values of every loss on a batch made by hand, and the traps of the peers' code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from pytest_unlearn.models.batching import IGNORED, Batch
from pytest_unlearn.models.losses import token_mean_kl, token_mean_nll
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.options import UnlearnOptions
from pytest_unlearn.unlearning.policy import Step

# Two rows of four tokens over three words; row 0 learns tokens 2 and 3, row 1 token 1, the rest
# is prompt or padding.
LABELS = torch.tensor([[IGNORED, IGNORED, 2, 0], [IGNORED, 1, IGNORED, IGNORED]])
POLICY = torch.tensor(
    [
        [[9.0, 9.0, 9.0], [0.0, 1.0, 2.0], [2.0, 0.0, -1.0], [7.0, 7.0, 7.0]],
        [[0.5, 0.0, 0.0], [8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 8.0]],
    ]
)
REFERENCE = torch.tensor(
    [
        [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]],
        [[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    ]
)
# The rows of logits that predict the learnt tokens, and those tokens.
PREDICTED = [(0, 1, 2), (0, 2, 0), (1, 0, 1)]


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def nll_by_hand(bound: float = math.inf) -> float:
    losses = [-math.log(softmax(POLICY[r, t].tolist())[word]) for r, t, word in PREDICTED]
    return sum(min(loss, bound) for loss in losses) / len(losses)


def kl_by_hand() -> float:
    total = 0.0
    for r, t, _ in PREDICTED:
        p, q = softmax(REFERENCE[r, t].tolist()), softmax(POLICY[r, t].tolist())
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(PREDICTED)


def test_nll() -> None:
    """A mean over learnt tokens, not over rows, prompt or padding."""
    assert token_mean_nll(POLICY, LABELS).item() == pytest.approx(nll_by_hand())


def test_nll_bound() -> None:
    """Each token counts at most the bound, and gives no gradient beyond it."""
    logits = POLICY.clone().requires_grad_()
    loss = token_mean_nll(logits, LABELS, bound=1.0)
    assert loss.item() == pytest.approx(nll_by_hand(1.0))
    assert nll_by_hand(1.0) < nll_by_hand()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    losses = [-math.log(softmax(POLICY[r, t].tolist())[word]) for r, t, word in PREDICTED]
    for (r, t, _), token_loss in zip(PREDICTED, losses, strict=True):
        assert bool(logits.grad[r, t].any()) is (token_loss < 1.0)


def test_kl() -> None:
    """KL(reference || policy) over learnt tokens; the other direction has another value."""
    forward = float(token_mean_kl(REFERENCE, POLICY, LABELS))
    assert forward == pytest.approx(kl_by_hand())
    assert float(token_mean_kl(POLICY, REFERENCE, LABELS)) != pytest.approx(forward, rel=1e-2)


def test_kl_of_shifted_logits_is_zero() -> None:
    """Both sides are normalised: raw logits would give an unbounded number instead."""
    assert float(token_mean_kl(POLICY, POLICY + 1, LABELS)) == pytest.approx(0.0, abs=1e-6)


def test_masked_positions_do_not_count() -> None:
    """Whatever stands at prompt and padding changes neither loss nor gradient."""
    changed = POLICY.clone()
    learnt = torch.zeros(2, 4, dtype=torch.bool)
    for r, t, _ in PREDICTED:
        learnt[r, t] = True
    changed[~learnt] = 100.0 * torch.rand_like(changed[~learnt])
    changed.requires_grad_()
    assert token_mean_nll(changed, LABELS).item() == pytest.approx(nll_by_hand())
    loss = token_mean_kl(REFERENCE, changed, LABELS)
    assert loss.item() == pytest.approx(kl_by_hand())
    loss.backward()  # type: ignore[no-untyped-call]
    assert changed.grad is not None
    assert not bool(changed.grad[~learnt].any())


def test_nothing_learnt_is_an_error() -> None:
    """A mean over no token is NaN, and zero would read as success."""
    with pytest.raises(ValueError, match="no token of the batch is learnt"):
        token_mean_nll(POLICY, torch.full_like(LABELS, IGNORED))


def test_low_precision_is_computed_in_float32() -> None:
    """bf16 logits of a GPU run lose nothing more in the loss."""
    loss = token_mean_nll(POLICY.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(nll_by_hand(), rel=1e-2)


class FixedPolicy(torch.nn.Module):
    """Gives the policy's logits, or the reference's while its adapter is off."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(POLICY.clone())
        self.off = False
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, **inputs: object) -> object:
        self.calls.append((self.off, torch.is_grad_enabled()))

        @dataclass
        class Output:
            logits: torch.Tensor

        return Output(REFERENCE if self.off else self.logits)

    def disable_adapter(self) -> object:
        import contextlib

        @contextlib.contextmanager
        def off() -> object:  # type: ignore[misc]
            self.off = True
            yield
            self.off = False

        return off()


GOLDEN = {
    "ga": -2 * nll_by_hand(),
    "ga+gd": 3 * nll_by_hand() - 2 * nll_by_hand(),
    "ga+kl": 3 * kl_by_hand() - 2 * nll_by_hand(),
}
# Forward passes: (adapter off?, with gradient?).
PASSES = {
    "ga": [(False, True)],
    "ga+gd": [(False, True), (False, True)],
    "ga+kl": [(True, False), (False, True), (False, True)],
}


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str) -> None:
    """Each method's loss, its sign and weights, and no more passes than it needs."""
    policy = FixedPolicy()
    batch = Batch(torch.zeros_like(LABELS), torch.ones_like(LABELS), LABELS)
    options = UnlearnOptions(lr=1e-3, steps=1, forget_weight=2.0, retain_weight=3.0)
    loss = METHODS[name].loss(Step(policy, batch, batch), options)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(GOLDEN[name])
    assert sorted(policy.calls) == sorted(PASSES[name])


def test_ascent_goes_up() -> None:
    """A step down GA's loss makes the forget tokens less likely."""
    policy = FixedPolicy()
    batch = Batch(torch.zeros_like(LABELS), torch.ones_like(LABELS), LABELS)
    loss = METHODS["ga"].loss(Step(policy, batch, None), METHODS["ga"].defaults)  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    assert policy.logits.grad is not None
    after = policy.logits.detach() - 0.1 * policy.logits.grad
    assert float(token_mean_nll(after, LABELS)) > nll_by_hand()


def test_a_retain_set_is_asked_for() -> None:
    """A method with a retain term does not silently become GA."""
    batch = Batch(torch.zeros_like(LABELS), torch.ones_like(LABELS), LABELS)
    with pytest.raises(ValueError, match="needs a retain set"):
        METHODS["ga+gd"].loss(Step(FixedPolicy(), batch, None), METHODS["ga+gd"].defaults)  # type: ignore[arg-type]
