"""Golden values of every loss on batches made by hand, in plain Python; traps of peers' code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_unlearn.models import lm_head
from pytest_unlearn.models.batches import IGNORED, Encoded
from pytest_unlearn.models.lm_head import (
    token_kl,
    token_kl_top,
    token_mean_nll,
    top_share,
    without_target,
)
from pytest_unlearn.unlearning.data import with_base_sums, with_base_top
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.methods.gradient_ascent import move_price
from pytest_unlearn.unlearning.step import RunState, Step
from tests.support.bigram import (
    ALTERNATES,
    BASE,
    FORGET,
    POLICY,
    RETAIN,
    Bigram,
    X,
    batch,
    flat,
    kl,
    mean,
    mean_kl,
    mean_nll,
    neg_log_sigmoid,
    nll,
    pairs,
    softmax,
    sums,
)

# Methods that need the layers of a real model; tests/unlearning/test_methods.py has theirs.
ON_LAYERS = {"rmu", "task-vector", "anchored"}
ON_TABLES = [name for name in METHODS if name not in ON_LAYERS]


def prepared(policy: Bigram, name: str) -> tuple[list[Encoded], list[Encoded]]:
    """Return forget and retain rows as the loop would give them to the method."""
    forget, retain = list(FORGET), list(RETAIN)
    if METHODS[name].base_sums:
        forget = with_base_sums(policy, forget, 0)
    if METHODS[name].alternates:
        others = with_base_sums(policy, ALTERNATES, 0)
        forget = [replace(row, alternate=o) for row, o in zip(forget, others, strict=True)]
    policy.calls.clear()
    return forget, retain


def taken(policy: Bigram, name: str, **changes: Any) -> torch.Tensor:
    """Return a method's loss on the hand-made batches."""
    method = METHODS[name]
    forget, retain = prepared(policy, name)
    step = Step(
        policy,  # type: ignore[arg-type]
        batch(forget),
        batch(retain) if method.uses_retain else None,
        RunState(0),
    )
    return method.loss(step, replace(method.defaults, **changes))


# -- golden values -----------------------------------------------------------------------------

WEIGHTS = {"forget_weight": 2.0, "retain_weight": 3.0}


def npo_by_hand(beta: float) -> float:
    rises = [a - b for a, b in zip(sums(POLICY, FORGET), sums(BASE, FORGET), strict=True)]
    return mean(2 / beta * neg_log_sigmoid(beta * rise) for rise in rises)


def dpo_by_hand(beta: float) -> float:
    true = [a - b for a, b in zip(sums(POLICY, FORGET), sums(BASE, FORGET), strict=True)]
    other = [a - b for a, b in zip(sums(POLICY, ALTERNATES), sums(BASE, ALTERNATES), strict=True)]
    return mean(
        2 / beta * neg_log_sigmoid(beta * (t - o)) for t, o in zip(true, other, strict=True)
    )


def cross_entropy(teacher: list[float], before: int) -> float:
    log_q = [math.log(q) for q in softmax(POLICY[before])]
    return -sum(p * q for p, q in zip(teacher, log_q, strict=True))


def lowered(table: Any, before: int, word: int, by: float) -> list[float]:
    return softmax([z - by * (i == word) for i, z in enumerate(table[before])])


def dropped(table: Any, before: int, word: int) -> list[float]:
    rest = [math.exp(z) * (i != word) for i, z in enumerate(table[before])]
    return [r / sum(rest) for r in rest]


def prod_by_hand(top_p: float, alpha: float) -> float:
    losses = []
    for before, word in flat(FORGET):
        others, reached, kept = dropped(BASE, before, word), 0.0, [0.0] * len(BASE)
        for i in sorted(range(len(others)), key=lambda i: -others[i]):
            if reached < top_p:
                kept[i] = others[i]
                reached += others[i]
        teacher = [k / sum(kept) for k in kept]
        teacher[word] = -alpha * softmax(BASE[before])[word]
        losses.append(cross_entropy(teacher, before))
    return mean(losses)


def weighted_by_hand(weight: Any) -> float:
    tokens = [nll(POLICY, b, w) for b, w in flat(FORGET)]
    return -mean(weight(math.exp(-loss)) * loss for loss in tokens)


def codeeraser_by_hand(context: float) -> float:
    rest = [
        replace(
            row,
            labels=[
                X if label != X else word for word, label in zip(row.ids, row.labels, strict=True)
            ],
        )
        for row in FORGET
    ]
    value = mean(mean(min(nll(POLICY, b, w), 1.4) for b, w in row) for row in pairs(FORGET))
    moved = mean(mean(min(kl(b), 1.4) for b, _ in row) for row in pairs(FORGET))
    return -value + context * mean_nll(POLICY, rest) + 0.5 * (3 * mean_kl(RETAIN) - moved)


def pdu_by_hand() -> float:
    flat_logits = mean((max(POLICY[b]) - mean(POLICY[b])) ** 2 for b, _ in flat(FORGET))
    return flat_logits + 7 * (mean_nll(POLICY, RETAIN) - 0.3)


RETAINED = 3 * mean_nll(POLICY, RETAIN)
GOLDEN: dict[str, tuple[dict[str, Any], float]] = {
    "ga": ({}, -mean_nll(POLICY, FORGET)),
    "ga+gd": (WEIGHTS | {"forget_bound": 1.0}, RETAINED - 2 * mean_nll(POLICY, FORGET, 1.0)),
    "ga+kl": (WEIGHTS, 3 * mean_kl(RETAIN) - 2 * mean_nll(POLICY, FORGET, 4.0)),
    "npo": ({"beta": 0.3}, npo_by_hand(0.3)),
    "npo+gd": (WEIGHTS | {"beta": 0.1}, 2 * npo_by_hand(0.1) + RETAINED),
    "npo+kl": (WEIGHTS | {"beta": 0.1}, 2 * npo_by_hand(0.1) + 3 * mean_kl(RETAIN)),
    "simnpo": (
        WEIGHTS | {"beta": 2.5, "delta": 0.2},
        2
        * mean(
            2 / 2.5 * neg_log_sigmoid(2.5 * (total / len(row) - 0.2))
            for total, row in zip(sums(POLICY, FORGET), pairs(FORGET), strict=True)
        )
        + RETAINED,
    ),
    "dpo": (WEIGHTS | {"beta": 0.1}, 2 * dpo_by_hand(0.1) + RETAINED),
    "idkdpo": (WEIGHTS | {"beta": 0.2}, 2 * dpo_by_hand(0.2) + RETAINED),
    "altpo": (WEIGHTS | {"beta": 0.05}, 2 * dpo_by_hand(0.05) + RETAINED),
    "undial": (
        WEIGHTS | {"beta": 2.0},
        2 * mean(cross_entropy(lowered(BASE, b, w, 2.0), b) for b, w in flat(FORGET)) + RETAINED,
    ),
    "ce-u": ({}, mean(cross_entropy(dropped(POLICY, b, w), b) for b, w in flat(FORGET))),
    "wga": (WEIGHTS | {"beta": 0.5}, 2 * weighted_by_hand(lambda p: p**0.5) + RETAINED),
    "satimp": (
        WEIGHTS | {"beta1": 5.0, "beta2": 1.0},
        2 * weighted_by_hand(lambda p: p**5 * (1 - p)) + RETAINED,
    ),
    "pdu": ({"price": 7.0, "epsilon": 0.3}, pdu_by_hand()),
    "codeeraser": (
        {"kl_weight": 0.5, "retain_weight": 3.0, "forget_bound": 1.4, "context_weight": 0.7},
        codeeraser_by_hand(0.7),
    ),
    "prod": (WEIGHTS | {"alpha": 0.5}, 2 * prod_by_hand(0.8, 0.5) + RETAINED),
}


@pytest.mark.parametrize("name", ON_TABLES)
def test_golden_value(name: str) -> None:
    """Each loss as a loop over neighbouring words gives it; every method has a value here."""
    changes, expected = GOLDEN[name]
    assert taken(Bigram(), name, **changes).item() == pytest.approx(expected, rel=1e-5)


def test_codeeraser_without_context() -> None:
    """`spans=values` leaves the document's other words out of the loss."""
    changes = GOLDEN["codeeraser"][0] | {"spans": "values"}
    loss = taken(Bigram(), "codeeraser", **changes)
    assert loss.item() == pytest.approx(codeeraser_by_hand(0.0), rel=1e-5)


# -- direction of the gradient -----------------------------------------------------------------


def known_by_heart() -> list[list[float]]:
    """A table that gives each forget word the largest logit."""
    table = [list(row) for row in POLICY]
    for before, _ in flat(FORGET):
        table[before] = [0.3 * z for z in table[before]]
    for before, word in flat(FORGET):
        table[before][word] += 2.0
    return table


@pytest.mark.parametrize("name", ON_TABLES)
def test_a_step_down_forgets(name: str) -> None:
    """The forget words become less likely; with an alternate, that becomes likelier."""
    table = known_by_heart()
    policy = Bigram(table, table)
    retain_off = {"retain_weight": 0.0} if hasattr(METHODS[name].defaults, "retain_weight") else {}
    taken(policy, name, **retain_off).backward()
    assert policy.table.grad is not None
    after = (policy.table.detach() - 0.05 * policy.table.grad).tolist()
    assert mean_nll(after, FORGET) > mean_nll(table, FORGET)
    if METHODS[name].alternates:
        assert mean_nll(after, ALTERNATES) < mean_nll(table, ALTERNATES)


@pytest.mark.parametrize("name", ["ga+kl", "npo+kl"])
def test_divergence_is_zero_at_the_start(name: str) -> None:
    """Before the first step policy and base are one: the term is 0, and so is its gradient."""
    policy = Bigram(BASE, BASE)
    step = Step(policy, batch(FORGET), batch(RETAIN))  # type: ignore[arg-type]
    divergence = step.retain_kl()
    assert divergence.item() == pytest.approx(0.0, abs=1e-6)
    divergence.backward()  # type: ignore[no-untyped-call]
    assert policy.table.grad is not None
    assert float(policy.table.grad.abs().max()) < 1e-6


# -- passes ------------------------------------------------------------------------------------

FORGET_PASS, RETAIN_PASS, BASE_PASS = (False, True, 2), (False, True, 2), (True, False, 2)
PASSES = {
    "ga": [FORGET_PASS],
    "ga+gd": [FORGET_PASS, RETAIN_PASS],
    "ga+kl": [BASE_PASS, FORGET_PASS, RETAIN_PASS],
    "npo": [FORGET_PASS],
    "npo+gd": [FORGET_PASS, RETAIN_PASS],
    "npo+kl": [BASE_PASS, FORGET_PASS, RETAIN_PASS],
    "simnpo": [FORGET_PASS, RETAIN_PASS],
    "dpo": [(False, True, 4), RETAIN_PASS],
    "idkdpo": [(False, True, 4), RETAIN_PASS],
    "altpo": [(False, True, 4), RETAIN_PASS],
    "undial": [BASE_PASS, FORGET_PASS, RETAIN_PASS],
    "ce-u": [FORGET_PASS],
    "wga": [FORGET_PASS, RETAIN_PASS],
    "satimp": [FORGET_PASS, RETAIN_PASS],
    "pdu": [FORGET_PASS, RETAIN_PASS],
    "codeeraser": [(True, False, 4), FORGET_PASS, RETAIN_PASS],
    "prod": [BASE_PASS, FORGET_PASS, RETAIN_PASS],
}


@pytest.mark.parametrize("name", ON_TABLES)
def test_passes(name: str) -> None:
    """At most two of the policy and one of the base, which has no gradient.

    Peers take three and one for a divergence (open-unlearning), and load a reference for SimNPO,
    whose name holds "npo" (MUSE).
    """
    policy = Bigram()
    taken(policy, name)
    assert sorted(policy.calls) == sorted(PASSES[name])


def test_top_of_the_base_needs_no_pass() -> None:
    """With `kl_top` the base is asked once an example, and never in a step."""
    policy = Bigram()
    retain = with_base_top(policy, RETAIN, 0, 3)
    policy.calls.clear()
    loss = Step(policy, batch(FORGET), batch(retain)).retain_kl()  # type: ignore[arg-type]
    assert policy.calls == [RETAIN_PASS]
    assert 0 < loss.item() <= mean_kl(RETAIN)
    every = with_base_top(policy, RETAIN, 0, len(BASE))
    whole = Step(policy, batch(FORGET), batch(every)).retain_kl()  # type: ignore[arg-type]
    assert whole.item() == pytest.approx(mean_kl(RETAIN), rel=1e-5)


def test_base_sums_are_computed_once_in_the_order_of_the_rows() -> None:
    """Rows of unlike length are run in order of length and given back in theirs."""
    rows = with_base_sums(Bigram(), FORGET, 0)
    assert [row.base_nll for row in rows] == pytest.approx(sums(BASE, FORGET))
    assert [row.ids for row in rows] == [row.ids for row in FORGET]


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].base_sums])
def test_base_sums_are_asked_for(name: str) -> None:
    """A row without them is an error: zeros would be another loss."""
    step = Step(Bigram(), batch(FORGET), batch(RETAIN))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"were not computed|has none"):
        METHODS[name].loss(step, METHODS[name].defaults)


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].uses_retain])
def test_a_retain_set_is_asked_for(name: str) -> None:
    """A method with a retain term does not silently become one without."""
    policy = Bigram()
    forget = prepared(policy, name)[0]
    with pytest.raises(ValueError, match="needs a retain set"):
        METHODS[name].loss(Step(policy, batch(forget), None), METHODS[name].defaults)  # type: ignore[arg-type]


# -- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ON_TABLES if n != "codeeraser"])
def test_prompt_and_padding_count_for_nothing(name: str) -> None:
    """Words that predict no learnt word change neither loss nor gradient.

    UNDIAL of open-unlearning has gradients on prompt positions, and reads label -100 as a word;
    its KL averages over prompt and padding.
    """
    forget, retain, alternate = (
        [Encoded([1, 2, last], [X, X, last]), Encoded([2, last], [X, last])] for last in (3, 4, 0)
    )
    unread = {0, 1, 3, 4}
    losses = []
    for noise in (0.0, 5.0):
        table, base = ([list(row) for row in source] for source in (POLICY, BASE))
        for i in unread:
            table[i] = [z * (1 + noise) + noise * k for k, z in enumerate(table[i])]
            base[i] = [z * (1 - noise) for z in base[i]]
        policy = Bigram(table, base)
        rows = with_base_sums(policy, forget, 0)
        others = with_base_sums(policy, alternate, 0)
        rows = [replace(row, alternate=o) for row, o in zip(rows, others, strict=True)]
        step = Step(policy, batch(rows), batch(retain), RunState(0))  # type: ignore[arg-type]
        loss = METHODS[name].loss(step, METHODS[name].defaults)
        loss.backward()  # type: ignore[no-untyped-call]
        assert policy.table.grad is not None
        assert not any(bool(policy.table.grad[i].any()) for i in unread)
        losses.append(loss.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ON_TABLES)
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    """The same rows, padded to twice the width."""
    wide = [Encoded([0] * 9, [X] * 9)]

    def loss(extra: bool) -> float:
        policy = Bigram()
        forget, retain = prepared(policy, name)
        batches = [batch(forget), batch(retain)]
        if extra:
            batches = [
                replace(
                    batch([*rows, *wide]),
                    **{
                        key: getattr(batch([*rows, *wide]), key)[:-1]
                        for key in ("input_ids", "attention_mask", "labels")
                    },
                    rows=tuple(rows),
                )
                for rows in (forget, retain)
            ]
            assert batches[0].input_ids.shape == (2, 9)
        step = Step(policy, *batches, RunState(0))  # type: ignore[arg-type]
        return METHODS[name].loss(step, METHODS[name].defaults).item()

    assert loss(extra=True) == pytest.approx(loss(extra=False), rel=1e-6)


@pytest.mark.parametrize("name", ON_TABLES)
def test_nothing_learnt_is_an_error(name: str) -> None:
    """A mean over no token is NaN, and zero would read as success."""
    policy = Bigram()
    rows = [replace(row, labels=[X] * len(row.ids)) for row in prepared(policy, name)[0]]
    silent = [
        replace(row, alternate=replace(row.alternate, labels=row.labels)) if row.alternate else row
        for row in rows
    ]
    if name == "codeeraser":  # there the document is learnt, and the value must be in it
        return
    with pytest.raises(ValueError, match="no token of the batch is learnt"):
        METHODS[name].loss(Step(policy, batch(silent), batch(RETAIN)), METHODS[name].defaults)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ce-u", "ga", "npo", "undial", "prod"])
def test_the_first_word_of_a_value_counts(name: str) -> None:
    """CE-U's own code skips it; what cannot be begun cannot be given away."""
    first = [Encoded([2, 3], [X, 3])]
    policy = Bigram(BASE, BASE)
    step = Step(policy, batch(with_base_sums(policy, first, 0)), batch(RETAIN))  # type: ignore[arg-type]
    options = METHODS[name].defaults
    if METHODS[name].uses_retain:
        options = replace(options, retain_weight=0.0)  # type: ignore[call-arg]
    METHODS[name].loss(step, options).backward()  # type: ignore[no-untyped-call]
    assert policy.table.grad is not None
    assert policy.table.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [2]


def test_bound_stops_the_gradient() -> None:
    """A token beyond `forget_bound` gives none."""
    policy = Bigram()
    Step(policy, batch(FORGET), None).forget_nll(1.0).backward()  # type: ignore[arg-type, no-untyped-call]
    assert policy.table.grad is not None
    for before, word in flat(FORGET):
        moved = bool(policy.table.grad[before].any())
        near = [w for b, w in flat(FORGET) if b == before and nll(POLICY, b, w) < 1.0]
        assert moved is bool(near), word


def test_weights_take_no_gradient() -> None:
    """WGA's and SatImp's weights are constants: the gradient is the weighted one of the NLL."""
    policy = Bigram()
    one = [Encoded([1, 2], [X, 2])]
    p = math.exp(-nll(POLICY, 1, 2))
    for name, weight in (("wga", p), ("satimp", p**5 * (1 - p))):
        policy.table.grad = None
        options = replace(METHODS[name].defaults, retain_weight=0.0)  # type: ignore[call-arg]
        if name == "satimp":
            options = replace(options, beta1=5.0, beta2=1.0)  # type: ignore[call-arg]
        options = replace(options, forget_weight=1.0)  # type: ignore[call-arg]
        METHODS[name].loss(Step(policy, batch(one), batch(RETAIN)), options).backward()  # type: ignore[arg-type, no-untyped-call]
        assert policy.table.grad is not None
        # d NLL / d z = softmax(z) - [word]
        assert float(policy.table.grad[1, 2]) == pytest.approx(-weight * (p - 1), rel=1e-4)


def test_pdu_price_moves_with_the_retained_loss() -> None:
    """Up while it is above epsilon, down below it, and never under 0."""
    for epsilon, step_size in ((0.0, 5.0), (9.0, 5.0), (9.0, 1e6)):
        state = RunState(0)
        options = replace(
            METHODS["pdu"].defaults,
            price=100.0,  # type: ignore[call-arg]
            epsilon=epsilon,
            price_step=step_size,
        )
        step = Step(Bigram(), batch(FORGET), batch(RETAIN), state)  # type: ignore[arg-type]
        first = METHODS["pdu"].loss(step, options).item()
        move_price(state, options)  # type: ignore[arg-type]
        excess = mean_nll(POLICY, RETAIN) - epsilon
        price = max(0.0, 100 + step_size * excess)
        second = METHODS["pdu"].loss(step, options).item()
        assert second - first == pytest.approx((price - 100) * excess, rel=1e-4)


# -- logits --------------------------------------------------------------------------------------

LABELS = torch.tensor([[IGNORED, IGNORED, 2, 0], [IGNORED, 1, IGNORED, IGNORED]])
LOGITS = torch.tensor(
    [
        [[9.0, 9.0, 9.0], [0.0, 1.0, 2.0], [2.0, 0.0, -1.0], [7.0, 7.0, 7.0]],
        [[0.5, 0.0, 0.0], [8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 8.0]],
    ]
)
PREDICTED = [(0, 1, 2), (0, 2, 0), (1, 0, 1)]


def test_nll_of_a_batch_is_shifted_and_masked() -> None:
    """A mean over learnt tokens; logits at `t` predict token `t + 1`; also from bfloat16."""
    by_hand = mean(-math.log(softmax(LOGITS[r, t].tolist())[w]) for r, t, w in PREDICTED)
    assert token_mean_nll(LOGITS, LABELS).item() == pytest.approx(by_hand)
    low = token_mean_nll(LOGITS.bfloat16(), LABELS)
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(by_hand, rel=1e-2)
    with pytest.raises(ValueError, match="no token of the batch is learnt"):
        token_mean_nll(LOGITS, torch.full_like(LABELS, IGNORED))


def test_kl_of_shifted_logits_is_zero() -> None:
    """Both sides are normalised. MUSE feeds raw logits: there the value has no lower bound."""
    logits = torch.tensor(POLICY)
    assert token_kl(logits, logits + 7).tolist() == pytest.approx([0.0] * 5, abs=1e-5)
    assert token_kl(torch.tensor(BASE), logits).tolist() == pytest.approx(
        [kl(i) for i in range(5)], rel=1e-5
    )
    other_way = token_kl(logits, torch.tensor(BASE))
    assert float(other_way[0]) != pytest.approx(kl(0), rel=1e-2)


numbers = st.lists(st.floats(-6, 6, width=32), min_size=8, max_size=8)


@settings(deadline=None, max_examples=60)
@given(numbers, numbers, st.integers(1, 8))
def test_lumping_the_tail_is_bounded(reference: list[float], policy: list[float], k: int) -> None:
    """What is lost is not negative, and at most the tail's mass times its largest log-ratio."""
    p, q = softmax(reference), softmax(policy)
    whole = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    logits = torch.tensor([reference])
    top = logits.log_softmax(dim=-1).topk(k)
    lumped = token_kl_top(top.values, top.indices, torch.tensor([policy])).item()
    tail = [i for i in range(8) if i not in top.indices[0].tolist()]
    mass, other = sum(p[i] for i in tail), sum(q[i] for i in tail)
    bound = mass * max((math.log(p[i] / mass / (q[i] / other)) for i in tail), default=0.0)
    assert -1e-4 <= whole - lumped <= bound + 1e-4


def test_without_target() -> None:
    """Infinity takes the target out and keeps the other ratios; label -100 is no word."""
    logits, targets = torch.tensor(POLICY), torch.tensor([0, 1, 2, 3, 4])
    gone = without_target(logits, targets, math.inf)
    for i in range(5):
        assert gone[i].tolist() == pytest.approx(dropped(POLICY, i, i))
    with pytest.raises(RuntimeError):
        without_target(logits, torch.full((5,), IGNORED), 1.0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.5, 1), (0.75, 2), (0.95, 3), (1.0, 3)])
def test_top_share(top_p: float, kept: int) -> None:
    """The likeliest tokens that reach the mass; at least one; the sum is 1 again."""
    cut = top_share(torch.tensor([[0.3, 0.5, 0.2, 0.0]]), top_p)[0]
    assert int((cut > 0).sum()) == kept
    assert float(cut.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ON_TABLES)
def test_chunks_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token at a time: the same loss and the same gradient."""
    results = []
    for elements in (lm_head.CHUNK_ELEMENTS, 1):
        monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", elements)
        policy = Bigram()
        loss = taken(policy, name, **GOLDEN[name][0])
        loss.backward()  # type: ignore[no-untyped-call]
        assert policy.table.grad is not None
        results.append((loss.item(), policy.table.grad.flatten().tolist()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-4, abs=1e-6)
