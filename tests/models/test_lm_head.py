"""Body and head apart: the model's own logits, made only where a loss needs them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pytest_unlearn.models import lm_head
from pytest_unlearn.models.batches import Batch, Encoded, collate, joined
from pytest_unlearn.models.loading import Weights, peft_quietly
from tests.support.architectures import ARCHITECTURES, SIZES, random_model


def inputs(rows: int = 3, tokens: int = 7, words: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, words, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_logits_are_the_models_own(architecture: str) -> None:
    """Head and body apart give what the model gives as one, caps and factors included."""
    model = random_model(architecture)
    given = inputs()
    seen = given["attention_mask"].bool()
    states = lm_head.hidden_states(model, given)[seen]
    own = model(**given, use_cache=False).logits[seen]
    torch.testing.assert_close(lm_head.logits_of(model, states), own)
    lm_head.check_logits(model)
    assert lm_head.vocabulary_of(model) == own.shape[-1]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_states_of_a_layer(architecture: str) -> None:
    """Those that transformers gives, and the layers above do not run."""
    model = random_model(architecture)
    given = inputs()
    half, whole = (lm_head.states_at(model, given, depth) for depth in (0.5, 1.0))
    all_states = model(**given, output_hidden_states=True, use_cache=False).hidden_states
    torch.testing.assert_close(half, all_states[1])
    assert not torch.equal(half, whole)
    ran: list[int] = []
    lm_head.layers_of(model)[1].register_forward_pre_hook(lambda *_: ran.append(1))
    hooks = len(lm_head.layers_of(model)[0]._forward_hooks)
    lm_head.states_at(model, given, 0.5)
    assert not ran
    assert len(lm_head.layers_of(model)[0]._forward_hooks) == hooks
    lm_head.states_at(model, given, 0.01)  # a share below one layer is the first
    lm_head.states_at(model, given, 1.0)
    assert ran == [1]


def test_a_head_that_cannot_be_run_apart_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of other logits than the model's own would train something else."""
    model = random_model("llama")
    forward = type(model).forward

    def doubled(self: Any, input_ids: Any, **inputs: Any) -> Any:
        output = forward(self, input_ids, **inputs)
        output.logits = output.logits * (2 if bool(input_ids.any()) else 1)
        return output

    monkeypatch.setattr(type(model), "forward", doubled)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: its head.* other logits .*by 50"):
        lm_head.check_logits(model)


def test_a_model_without_layers_is_an_error() -> None:
    """RMU says so instead of steering something else."""
    model = random_model("llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(ValueError, match="no list of its 5 layers was found"):
        lm_head.states_at(model, inputs(), 0.5)


def noting_chunks() -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], list[int]]:
    """Return a function of rows, and a list of how many it was given each time."""
    made: list[int] = []

    def function(chunk: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        made.append(len(chunk))
        return chunk.square().sum(dim=1) * factor

    return function, made


def test_chunks_are_made_again_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks: the same values and gradients; none is kept, so each is made twice."""
    rows = torch.arange(12.0).reshape(6, 2).requires_grad_()
    more = torch.arange(6.0)
    function, made = noting_chunks()
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 8)
    result = lm_head.over_chunks(function, 2, rows, more)
    assert made == [4, 2]
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(made) == [2, 2, 4, 4]
    torch.testing.assert_close(result, rows.square().sum(dim=1) * more)
    torch.testing.assert_close(rows.grad, 2 * rows.detach() * more[:, None])
    made.clear()
    with torch.no_grad():
        lm_head.over_chunks(function, 2, rows, more)
    assert made == [4, 2]


def test_chunks_are_made_once_where_the_head_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values, and the same gradient whatever comes down from the loss; nothing of a
    chunk is kept or made again."""
    states = torch.arange(12.0).reshape(6, 2).requires_grad_()
    more = torch.arange(6.0)
    function, made = noting_chunks()
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 8)
    result = lm_head.over_chunks(function, 2, states, more, fixed=True)
    (result.clamp(max=100).square()).sum().backward()  # type: ignore[no-untyped-call]
    assert made == [4, 2]
    expected = states.detach().clone().requires_grad_()
    whole = function(expected, more)
    whole.clamp(max=100).square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(result, whole)
    torch.testing.assert_close(states.grad, expected.grad)
    assert bool((states.grad == 0).any())
    made.clear()
    with torch.no_grad():
        lm_head.over_chunks(function, 2, states, more, fixed=True)
    assert made == [4, 2]


@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"]])
def test_gradients_in_chunks_are_those_of_the_whole(
    llama: Weights, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the adapter is in the head itself, whose weights then need a gradient."""
    from peft import LoraConfig, get_peft_model

    from pytest_unlearn.unlearning.step import predictions

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    with peft_quietly():
        policy = get_peft_model(llama.model, config)  # type: ignore[arg-type]
    assert lm_head.head_is_fixed(policy) is (targets == "all-linear")
    found = []
    for elements in (lm_head.CHUNK_ELEMENTS, 5 * lm_head.vocabulary_of(policy)):
        monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", elements)
        policy.zero_grad()
        seen = predictions(policy, whole_batch(3, 9), lambda s: lm_head.logits_of(policy, s))
        seen.nll().square().mean().backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in policy.named_parameters() if p.requires_grad})
    assert found[0]
    torch.testing.assert_close(found[1], found[0])


class Largest(TorchDispatchMode):
    """Notes the largest number of rows of any tensor whose last dimension is the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.vocabulary,):
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return result


def whole_batch(rows: int, tokens: int) -> Batch:
    given = inputs(rows, tokens, 250)
    ids = given["input_ids"].tolist()
    return collate([Encoded(row, [-100] * (tokens - 6) + row[-6:]) for row in ids], 0)


def test_logits_are_never_made_for_a_whole_batch(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at prompts, and of the learnt tokens a chunk at a time, forward and backward."""
    from peft import LoraConfig, get_peft_model

    from pytest_unlearn.unlearning.methods import METHODS
    from pytest_unlearn.unlearning.step import Step

    config = LoraConfig(r=2, target_modules="all-linear")
    with peft_quietly():
        policy = get_peft_model(llama.model, config)  # type: ignore[arg-type]
    vocabulary = lm_head.vocabulary_of(policy)
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 40 * vocabulary)  # 48 tokens are learnt
    step = Step(policy, whole_batch(8, 30), whole_batch(8, 20))
    for name in ("ga+kl", "undial", "codeeraser", "prod", "pdu"):
        with Largest(vocabulary) as largest:
            METHODS[name].loss(step, METHODS[name].defaults).backward()  # type: ignore[no-untyped-call]
        assert 0 < largest.rows <= 40, name


def test_joined_batches_keep_their_rows() -> None:
    """Both padded to the wider; padding masked and never learnt."""
    first, second = whole_batch(2, 9), whole_batch(3, 12)
    both = joined(first, second)
    assert both.input_ids.shape == both.labels.shape == both.attention_mask.shape == (5, 12)
    assert torch.equal(both.input_ids[:2, :9], first.input_ids)
    assert torch.equal(both.labels[2:], second.labels)
    assert not bool(both.attention_mask[:2, 9:].any())
    assert bool((both.labels[:2, 9:] == -100).all())
    assert both.rows == first.rows + second.rows


class Body(torch.nn.Module):
    """Ends on another device than its inputs are on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Identity()])

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        states = self.layers[0](torch.empty(*input_ids.shape, 4, device="cuda:0"))
        return SimpleNamespace(last_hidden_state=states)


class Spread(torch.nn.Module):
    """A causal model whose head is on yet another device."""

    base_model_prefix = "model"
    config = SimpleNamespace(num_hidden_layers=1)

    def __init__(self) -> None:
        super().__init__()
        self.model = Body()

    def forward(self, **inputs: Any) -> Any:
        states = self.model(**inputs).last_hidden_state
        logits = torch.empty(*states.shape[:2], 9, device="cuda:1")
        return SimpleNamespace(logits=logits)


def test_spread_over_devices() -> None:
    """Labels are where the inputs are: what another device computed comes back there. The tensors
    are fake: they have devices that this machine lacks, and no content."""
    model = Spread()
    with FakeTensorMode():
        inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
        states = lm_head.hidden_states(model, inputs)
        assert states.device.type == "cpu"
        assert lm_head.states_at(model, inputs, 1.0).device.type == "cpu"
        assert lm_head.logits_of(model, states[0]).device.type == "cpu"


@pytest.mark.parametrize(
    ("most", "numbers"), [(1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3])]
)
def test_states_are_recorded_of_layers_that_are_spread(most: int, numbers: list[int]) -> None:
    """Evenly, and the last among them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING["llama"](**{**SIZES, "num_hidden_layers": 4})
    ).eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3)}
    every = model(**inputs, output_hidden_states=True).hidden_states[1:]
    with lm_head.recorded_states(model, most) as states:
        last = lm_head.hidden_states(model, inputs)
    assert len(states) == len(numbers)
    for state, number in zip(states, numbers, strict=True):
        if number < 3:  # the last of the outputs is normalized already
            assert torch.equal(state, every[number])
        else:
            assert torch.allclose(model.model.norm(state), last)
