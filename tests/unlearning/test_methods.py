"""Methods on a real model with an adapter: RMU, task vector, and every method through the loop."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_unlearn.models.batches import Encoded, collate, encode
from pytest_unlearn.models.loading import Weights
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning import loop
from pytest_unlearn.unlearning.data import Encoder, training_rows
from pytest_unlearn.unlearning.method import MethodError
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.step import RunState, Step
from tests.support.small_models import with_moved_adapter

TEXTS = TrainingTexts(
    forget=[Example.answering(f"user{n} = ", f"v{n}" * (n + 1), ";\n") for n in range(3)],
    retained_people=[Example.answering(f"keep{n} = ", f"k{n}", ";") for n in range(3)],
    tasks=[Example.answering(f"task{n} = ", f"t{n}") for n in range(3)],
    alternates=[
        [Example.answering(f"user{n} = ", f"{w}{n}", ";\n") for w in "xyz"] for n in range(3)
    ],
)


@pytest.fixture
def policy(llama: Weights) -> Any:
    """The small Llama with an adapter whose B is not zero, so that it differs from its base."""
    return with_moved_adapter(llama, 4)


def step(policy: Any, llama: Weights, seed: int = 0) -> Step:
    def batch(examples: Any) -> Any:
        return collate([encode(llama.tokenizer, example) for example in examples], 0)

    return Step(policy, batch(TEXTS.forget), batch(TEXTS.tasks), RunState(seed))


def unit(state: torch.Tensor) -> torch.Tensor:
    """A state over its root mean square."""
    return state / state.square().mean() ** 0.5


def learnt(batch: Any, states: torch.Tensor) -> list[list[float]]:
    """States at the position before each learnt token, by a loop."""
    return [
        states[r, t - 1].tolist()
        for r in range(len(batch.labels))
        for t in range(1, batch.labels.shape[1])
        if batch.labels[r, t] != -100
    ]


def test_rmu_by_hand(policy: Any, llama: Weights) -> None:
    """Distances of the states at learnt positions only: peers average over padding as well."""
    given = step(policy, llama, seed=7)
    options = replace(METHODS["rmu"].defaults, steering=3.0, depth=0.5)  # type: ignore[call-arg]
    options = replace(options, forget_weight=2.0, retain_weight=5.0)  # type: ignore[call-arg]
    with torch.no_grad():
        found = METHODS["rmu"].loss(given, options).item()

        def states(batch: Any) -> list[list[float]]:
            every = policy(**batch.model_inputs(), output_hidden_states=True).hidden_states
            return learnt(batch, every[1])

        forget, retain = states(given.forget), states(given.retain)
        with policy.disable_adapter():
            base = states(given.retain)
    drawn = torch.rand(32, generator=torch.Generator().manual_seed(7)).tolist()
    length = sum(x * x for x in drawn) ** 0.5
    target = [3.0 * x / length for x in drawn]
    away = [(h - u) ** 2 for row in forget for h, u in zip(row, target, strict=True)]
    moved = [
        (h - b) ** 2
        for row, other in zip(retain, base, strict=True)
        for h, b in zip(row, other, strict=True)
    ]
    expected = 2 * sum(away) / len(away) + 5 * sum(moved) / len(moved)
    assert found == pytest.approx(expected, rel=1e-4)


def test_rmu_passes_stop_at_the_layer(policy: Any, llama: Weights) -> None:
    """Two of the policy and one of the base, none through the layer above."""
    ran: dict[int, int] = {0: 0, 1: 0}

    def count(layer: int) -> Any:
        return lambda *_: ran.__setitem__(layer, ran[layer] + 1)

    for number, layer in enumerate(policy.get_base_model().model.layers):
        layer.register_forward_pre_hook(count(number))
    options = replace(METHODS["rmu"].defaults, depth=0.5)  # type: ignore[call-arg]
    METHODS["rmu"].loss(step(policy, llama), options)
    assert ran == {0: 3, 1: 0}


def test_rmu_direction_is_the_seeds(policy: Any, llama: Weights) -> None:
    """The same in each step of a run, another for another seed."""

    def found(seed: int) -> float:
        return METHODS["rmu"].loss(step(policy, llama, seed), METHODS["rmu"].defaults).item()

    assert found(0) == found(0) != found(1)


def test_anchors_by_hand(policy: Any, llama: Weights) -> None:
    """KL over learnt tokens, and how far normalized states turned at every token of both layers.

    A row counts by its learnt tokens, not by its length: parts of a batch must add up.
    """
    given = step(policy, llama)
    batch = given.retained()
    layers = policy.get_base_model().model.layers
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, taken, output: outputs.append(output))
        for layer in layers
    ]
    with torch.no_grad():
        logits = policy(**batch.model_inputs()).logits
        with policy.disable_adapter():
            base_logits = policy(**batch.model_inputs()).logits
        for hook in hooks:
            hook.remove()
        divergence, turn = given.retain_drift(8)
    q, p = logits.log_softmax(-1), base_logits.log_softmax(-1)
    divergences, turns = [], []
    for row, example in enumerate(batch.rows):
        moved = [
            float(
                (unit(outputs[layer][row, place]) - unit(outputs[layer + 2][row, place]))
                .square()
                .mean()
            )
            for layer in (0, 1)
            for place in range(len(example.ids))
        ]
        for place, label in enumerate(example.labels[1:]):
            if label != -100:
                kept = p[row, place].exp() * (p[row, place] - q[row, place])
                divergences.append(float(kept.sum()))
                turns.append(sum(moved) / len(moved))
    assert divergence.item() == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert turn.item() == pytest.approx(sum(turns) / len(turns), rel=1e-4)
    assert turn.item() > 0.01


def test_anchored_loss(policy: Any, llama: Weights) -> None:
    """The three terms, each with its factor."""
    given = step(policy, llama)
    options = replace(
        METHODS["anchored"].defaults, forget_weight=2.0, retain_weight=3.0, anchor=5.0, beta=0.5
    )  # type: ignore[call-arg]
    with torch.no_grad():
        nll = given.predicted(given.forget).nll()
        divergence, turn = given.retain_drift(8)
        expected = -2 * ((-0.5 * nll).exp() * nll).mean() + 3 * (divergence + 5 * turn)
        found = METHODS["anchored"].loss(given, options)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_strangers_have_their_share_of_the_retained_rows(llama: Weights) -> None:
    """Of twelve rows four are strangers'; people and tasks share the rest. Those in the list and
    those whom the base recalls are people alike."""
    method = METHODS["anchored"]
    texts = replace(
        TEXTS,
        strangers=[Example.answering(f"who{n} = ", f"s{n}", ";") for n in range(20)],
        recalled=[Example.answering(f"old{n} = ", f"o{n}", ";") for n in range(20)],
    )
    options = replace(
        method.defaults, steps=1, retain_batch=12, strangers_share=1 / 3, people_share=0.5
    )  # type: ignore[call-arg]
    encoder = Encoder(llama.tokenizer, 64)
    rows = training_rows(llama.model, encoder, texts, method, options, 0)
    _, retained = next(loop._batches(rows, options, random.Random(0)))
    counts = [
        sum(r in part for r in retained)
        for part in (rows.strangers, [*rows.people, *rows.recalled], rows.tasks)
    ]
    assert counts == [4, 4, 4]
    assert any(row in rows.recalled for row in retained)


def test_partners_are_like_the_forget_rows(llama: Weights) -> None:
    """Of their kind and carrier where there is one, else anybody's; without `pairs` in turn."""
    method = METHODS["anchored"]
    texts = replace(
        TEXTS,
        forget=[replace(e, like="email json") for e in TEXTS.forget],
        retained_people=[
            replace(e, like=like)
            for e, like in zip(TEXTS.retained_people, ["email json", "email env", ""], strict=True)
        ],
    )
    options = replace(
        method.defaults, steps=1, retain_batch=4, people_share=1.0, batch=3, accumulate=1
    )
    encoder = Encoder(llama.tokenizer, 64)
    rows = training_rows(llama.model, encoder, texts, method, options, 0)

    def people(pairs: bool, forget: list[Encoded]) -> list[Encoded]:
        chosen = replace(options, pairs=pairs)  # type: ignore[call-arg]
        given = replace(rows, forget=forget)
        return next(loop._batches(given, chosen, random.Random(0)))[1]

    assert people(True, rows.forget) == [rows.people[0]] * 4
    assert len({row.like for row in people(False, rows.forget)}) == 3
    strange = [replace(row, like="phone yaml") for row in rows.forget]
    assert len({row.like for row in people(True, strange)}) > 1


def test_task_vector_trains_the_model_that_is_negated(policy: Any, llama: Weights) -> None:
    """The loss is that of theta - delta / scale; a step down makes theta + delta forget."""
    options = replace(METHODS["task-vector"].defaults, scale=2.0)  # type: ignore[call-arg]
    given = step(policy, llama)
    scalings = [m.scaling for m in policy.modules() if hasattr(m, "lora_B")]
    before = [dict(scaling) for scaling in scalings]
    loss = METHODS["task-vector"].loss(given, options)
    assert [dict(scaling) for scaling in scalings] == before
    for scaling in scalings:
        scaling["default"] *= -0.5
    by_hand = given.forget_nll(1e9).item()
    for scaling, kept in zip(scalings, before, strict=True):
        scaling.update(kept)
    assert loss.item() == pytest.approx(by_hand)
    assert by_hand != pytest.approx(given.forget_nll(1e9).item(), rel=1e-3)
    for name, parameter in policy.named_parameters():  # near the start, as training begins
        if "lora_B" in name:
            parameter.data.zero_()
    start = given.forget_nll(1e9).item()
    METHODS["task-vector"].loss(given, options).backward()  # type: ignore[no-untyped-call]
    for parameter in policy.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.05 * parameter.grad
    assert given.forget_nll(1e9).item() > start


def test_task_vector_needs_an_adapter(llama: Weights) -> None:
    """And no checkpointing, which would run layers again with the sign turned back."""
    options = METHODS["task-vector"].defaults
    with pytest.raises(ValueError, match="no LoRA adapter to scale"):
        METHODS["task-vector"].loss(step(llama.model, llama), options)
    llama.model.get_decoder().gradient_checkpointing = True  # type: ignore[operator]
    with pytest.raises(MethodError, match="gradient checkpointing"):
        METHODS["task-vector"].loss(step(llama.model, llama), options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("spans", ["values", "document"])
def test_every_method_runs(llama: Weights, name: str, spans: str) -> None:
    """Two steps on values and on whole documents: the adapter moves, the loss is finite."""
    method = METHODS[name]
    texts = TEXTS if method.alternates else replace(TEXTS, alternates=())
    options = replace(method.defaults, steps=2, batch=4, retain_batch=4, spans=spans, target=-1.0)
    policy, report = loop.unlearn(llama.model, llama.tokenizer, texts, method, options, 0)  # type: ignore[arg-type]
    assert report.steps == 2
    policy.delete_adapter("default")


def test_every_second_step_is_on_a_scaled_adapter(llama: Weights) -> None:
    """Of `least_scale`, and the adapter has its own scale again afterwards."""
    method, seen = METHODS["ga"], []

    def scale_of(policy: Any) -> float:
        layer = next(module for module in policy.modules() if hasattr(module, "lora_B"))
        return float(layer.scaling["default"])

    def loss(step: Step, options: Any) -> torch.Tensor:
        seen.append(scale_of(step.policy))
        return method.loss(step, options)

    options = replace(method.defaults, steps=4, batch=2, accumulate=2, target=-1.0, least_scale=0.5)
    policy, _ = loop.unlearn(
        llama.model, llama.tokenizer, TEXTS, replace(method, loss=loss), options, 0
    )
    assert seen == [1, 1, 2, 2, 1, 1, 2, 2]
    assert scale_of(policy) == 2
    policy.delete_adapter("default")


def test_spans_choose_what_is_learnt(policy: Any, llama: Weights) -> None:
    """`values`: the value's tokens; `document`: all; CodeEraser has the value's in both."""

    def count(name: str, spans: str) -> int:
        method = METHODS[name]
        options = replace(method.defaults, spans=spans)
        rows = training_rows(policy, Encoder(llama.tokenizer, 64), TEXTS, method, options, 0)
        return sum(label != -100 for label in rows.forget[0].labels[1:])

    # The tokenizer's tokens are bytes; the end token is learnt where the text is.
    assert count("npo", "values") == len("v0")
    assert count("npo", "document") == len("user0 = v0;\n") + 1
    assert count("codeeraser", "document") == count("codeeraser", "values") == len("v0")


def test_each_alternate_has_its_turn(policy: Any, llama: Weights) -> None:
    """A row for each alternate, with the base's sums of both."""
    method = METHODS["altpo"]
    rows = training_rows(policy, Encoder(llama.tokenizer, 64), TEXTS, method, method.defaults, 0)
    assert len(rows.forget) == 9
    assert len({tuple(row.alternate.ids) for row in rows.forget if row.alternate}) == 9
    assert all(row.base_nll and row.alternate and row.alternate.base_nll for row in rows.forget)
