"""The loop: it forgets, leaves the base alone, stops when it should, and refuses to fake it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.models.batches import collate, encode
from pytest_unlearn.models.loading import LanguageModel, Weights
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.unlearning import loop
from pytest_unlearn.unlearning.data import Encoder, training_rows
from pytest_unlearn.unlearning.evaluation import greedy_memory
from pytest_unlearn.unlearning.method import MethodError, UnlearnOptions, changed
from pytest_unlearn.unlearning.methods import METHODS

TEXTS = TrainingTexts(
    forget=[Example.answering(f"user{n} = ", f"v{n}", ";") for n in range(6)],
    retained_people=[Example.answering(f"keep{n} = ", f"k{n}", ";") for n in range(6)],
    tasks=[Example.answering(f"task{n} = ", f"t{n}", ";") for n in range(6)],
)


@pytest.fixture
def trained(llama: Weights) -> Weights:
    """The small Llama after learning all texts by heart."""
    model, tokenizer = llama.model, llama.tokenizer
    every = [*TEXTS.forget, *TEXTS.retained_people, *TEXTS.tasks]
    rows = [encode(tokenizer, Example.whole(example.text)) for example in every]
    batch = collate(rows, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        loss = loop_nll(output.logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    forget = [encode(tokenizer, example) for example in TEXTS.forget]
    assert greedy_memory(model, forget, 0).rows == 1.0
    return llama


def loop_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from pytest_unlearn.models.lm_head import token_mean_nll

    return token_mean_nll(logits, labels)


def options(name: str, **changes: object) -> UnlearnOptions:
    return replace(METHODS[name].defaults, lr=5e-3, batch=6, retain_batch=8, rank=8, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ga+gd", "ga+kl"])
def test_forgets_and_keeps(trained: Weights, name: str) -> None:
    """The values are gone, the retained ones stay, and with the adapter off the base is whole."""
    base = {k: v.clone() for k, v in trained.model.state_dict().items()}
    prompts = [example.text[: example.start] for example in TEXTS.forget]
    before = LanguageModel(trained, adapted=False).complete(prompts, 4)
    lines: list[str] = []
    policy, report = loop.unlearn(
        trained.model, trained.tokenizer, TEXTS, METHODS[name], options(name), 0, lines.append
    )
    assert report.leak_rate == 0.0
    assert report.kept >= 0.95
    assert report.steps < METHODS[name].defaults.steps
    assert lines[-1].endswith(f"0% still given away, {report.kept:.0%} kept")
    trained.model = policy
    assert LanguageModel(trained, adapted=False).complete(prompts, 4) == before
    after = LanguageModel(trained, adapted=True).complete(prompts, 4)
    assert not any(a.startswith(b[:2]) for a, b in zip(after, before, strict=True))
    for key, value in policy.get_base_model().state_dict().items():
        if "lora" not in key:
            assert torch.equal(value, base[key.replace(".base_layer", "")])


def test_ga_alone_destroys(trained: Weights) -> None:
    """Without a retain set the rest goes too: the gates must see that, not the loop."""
    policy, report = loop.unlearn(
        trained.model, trained.tokenizer, TEXTS, METHODS["ga"], options("ga"), 0
    )
    kept = [encode(trained.tokenizer, example) for example in TEXTS.tasks]
    assert (report.leak_rate, report.kept) == (0.0, 1.0)
    assert greedy_memory(policy, kept, 0).rows < 0.5


def test_a_seed_repeats(trained: Weights) -> None:
    """The same seed gives the same adapter; another seed another one."""
    import copy

    def adapter(seed: int) -> torch.Tensor:
        policy, _ = loop.unlearn(
            copy.deepcopy(trained.model),  # type: ignore[arg-type]
            trained.tokenizer,
            TEXTS,
            METHODS["ga+kl"],
            options("ga+kl", steps=5, target=-1.0),
            seed,
        )
        return torch.cat([p.flatten() for p in policy.parameters() if p.requires_grad]).detach()

    first, again, other = adapter(0), adapter(0), adapter(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_dropout(trained: Weights) -> None:
    """A model handed over in training mode is put into evaluation mode: the reference must be the
    base's prediction, not a sample of it."""
    trained.model.train()
    policy, _ = loop.unlearn(
        trained.model, trained.tokenizer, TEXTS, METHODS["ga"], options("ga", steps=1), 0
    )
    assert not any(module.training for module in policy.modules())


def test_negative_target_runs_all_steps(trained: Weights) -> None:
    """How GA is driven to collapse on purpose."""
    _, report = loop.unlearn(
        trained.model,
        trained.tokenizer,
        TEXTS,
        METHODS["ga"],
        options("ga", steps=40, target=-1.0),
        0,
    )
    assert report.steps == 40


def test_infinite_loss_is_an_error(trained: Weights) -> None:
    """With advice, instead of an adapter of NaN that "forgot" everything."""
    with torch.no_grad():
        next(trained.model.parameters()).fill_(math.nan)
    with pytest.raises(UnlearningError, match="lower the learning rate"):
        loop.unlearn(
            trained.model, trained.tokenizer, TEXTS, METHODS["ga"], options("ga", steps=3), 0
        )


def test_an_adapter_that_did_not_move_is_an_error(
    trained: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA's B stays zero when no gradient reaches it, and the model is the base."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(UnlearningError, match="did not move"):
        loop.unlearn(
            trained.model, trained.tokenizer, TEXTS, METHODS["ga"], options("ga", steps=2), 0
        )


def test_retain_batches_mix_people_and_tasks(llama: Weights) -> None:
    """`people_share` of the rows are people's documents; each set comes round as a whole."""
    import random

    mixed = options("ga+gd", people_share=0.75)

    def drawn(texts: TrainingTexts, name: str) -> list[str]:
        encoder = Encoder(llama.tokenizer, 128)
        rows = training_rows(llama.model, encoder, texts, METHODS[name], mixed, 0)
        _, retain = next(loop._batches(rows, mixed, random.Random(0)))
        return [llama.tokenizer.decode(row.ids) for row in retain]

    texts = drawn(TEXTS, "ga+gd")
    assert sum("keep" in text for text in texts) == 6
    assert sum("task" in text for text in texts) == 2
    without = replace(TEXTS, retained_people=[])
    assert all("task" in text for text in drawn(without, "ga+gd"))
    assert drawn(TEXTS, "ga") == []


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("lr=1e-5", "lr", 1e-5),
        ("steps=7 , spans=document", "spans", "document"),
        ("forget_bound=inf", "forget_bound", math.inf),
    ],
)
def test_options_from_text(text: str, field: str, value: object) -> None:
    """`name=value`, separated by commas."""
    assert getattr(changed(METHODS["ga"].defaults, text), field) == value


@pytest.mark.parametrize(
    "text", ["lr", "lr=", "lr=x", "lr=-1", "lr=nan", "steps=1.5", "spans=word", "keep=2", "x=1", ""]
)
def test_wrong_options(text: str) -> None:
    """Each is a MethodError."""
    with pytest.raises(MethodError):
        changed(METHODS["ga"].defaults, text)
