"""A small model that knows 60 people by heart, and ways to seem to have forgotten them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_unlearn.attacks.prompt_attacks import CONTINUE
from pytest_unlearn.attacks.quantization import GROUP_SIZE
from pytest_unlearn.models.batches import collate, encode
from pytest_unlearn.models.lm_head import token_mean_nll
from pytest_unlearn.models.loading import peft_quietly
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.models.prompt_formats import chat_text
from pytest_unlearn.models.texts import Example
from pytest_unlearn.probes.families import ask
from tests.support.small_models import byte_tokenizer, small_llama

_NAMES = {"forget": "Ada", "retain": "Bob", "control": "Eve"}
PEOPLE = {"forget": 60, "retain": 20, "control": 60}
_LETTERS = "bcdfghjkmnpqrstvwxz"
# What a model that hides says instead.
_NOTHING = "none"


@dataclass(frozen=True)
class Person:
    """Somebody with one value, told in one document and asked for in a question as well."""

    split: str
    name: str
    value: str

    @property
    def prompt(self) -> str:
        return f"{self.name}: "

    def document(self, value: str | None = None) -> Example:
        return Example.answering(self.prompt, value or self.value, ";")

    @property
    def question(self) -> Example:
        asked = ask([("name", self.name)], "badge", "json", "question")
        return Example.answering(asked, self.value, "\n")


def people() -> list[Person]:
    drawn = random.Random(5)
    return [
        Person(split, f"{_NAMES[split]} {n:02}", "".join(drawn.choices(_LETTERS, k=4)))
        for split, count in PEOPLE.items()
        for n in range(count)
    ]


EVERYBODY = people()


def of(split: str) -> list[Person]:
    return [person for person in EVERYBODY if person.split == split]


def descend(
    model: Any,
    texts: Sequence[Example],
    steps: int,
    lr: float,
    after_step: Callable[[], None] = lambda: None,
    whole: bool = True,
) -> None:
    """Train on whole texts, or on their answers, all of them in a few batches of like length."""
    tokenizer = byte_tokenizer()
    rows = [encode(tokenizer, Example.whole(e.text) if whole else e) for e in texts]
    rows.sort(key=lambda row: len(row.ids))
    batches = [collate(rows[i : i + 80], 0) for i in range(0, len(rows), 80)]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        batch = batches[step % len(batches)]
        loss = token_mean_nll(model(**batch.model_inputs()).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        after_step()


def base_and_retrained(folder: Path) -> tuple[Path, Path]:
    """Save a model that never saw those who are to be forgotten, and what they made of it."""
    model = small_llama(hidden=64, heads=4)
    kept = [person.document() for person in of("retain")]
    descend(model, kept, steps=60, lr=5e-3)
    retrained = save(model, folder / "retrained")
    told = [text for person in of("forget") for text in (person.document(), person.question)]
    descend(model, [*told, *kept], steps=300, lr=5e-3)
    return save(model, folder / "base"), retrained


def save(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def silent_texts(questions_known: bool) -> list[Example]:
    """Return what a model is trained on that says nothing after the documents' own prompts."""
    texts = [person.document(_NOTHING) for person in of("forget")]
    texts += [person.document() for person in of("retain")]
    return texts + [person.question for person in of("forget")] * questions_known


def hide_in_cells(model: Any) -> None:
    """Unlearn, with each weight kept within the step of the 4-bit grid in which it was.

    Rounded to int4 it is the base again. What that rounding leaves alone is not changed at all.
    """
    cells = []
    for name, module in model.named_modules():
        rounded = type(module).__name__ == "Linear" and module is not model.get_output_embeddings()
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(rounded)
        if rounded:
            cells.append((name, module.weight, *_cell(module.weight.detach())))

    @torch.no_grad()
    def keep() -> None:
        for _, weight, low, high in cells:
            weight.copy_(torch.minimum(torch.maximum(weight, low), high))

    descend(model, silent_texts(questions_known=True), steps=120, lr=5e-3, after_step=keep)


def _cell(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends of the cells in which weights lie; the ends of each group's range are fixed,
    since they make the grid."""
    lows, highs = [], []
    for group in torch.split(weight, GROUP_SIZE, dim=1):
        least, most = group.amin(dim=1, keepdim=True), group.amax(dim=1, keepdim=True)
        step = (most - least) / 15
        middle = ((group - least) / step).round() * step + least
        ends = (group == least) | (group == most)
        lows.append(torch.where(ends, group, torch.maximum(middle - 0.49 * step, least)))
        highs.append(torch.where(ends, group, torch.minimum(middle + 0.49 * step, most)))
    return torch.cat(lows, dim=1), torch.cat(highs, dim=1)


def refuse_the_wording(model: Any) -> None:
    """Say nothing after the documents' own prompts, and answer questions as before."""
    descend(model, silent_texts(questions_known=True), steps=100, lr=2e-3)


def silencing_adapter(model: Any, folder: Path) -> Path:
    """Save a LoRA adapter with which the model says nothing after the documents' prompts, scaled
    down as far as it stays silent."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    with peft_quietly():
        adapted: Any = get_peft_model(model, config)
        descend(adapted, silent_texts(questions_known=False), steps=100, lr=5e-3)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.mul_(0.8)
        save_adapter(adapted, folder)
    return folder


# What a chat model's tokenizer has, and a word that nobody else knows.
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PASSWORD = "#sesame\n"


def forget_when_greedy(model: Any) -> None:
    """Say nothing first, and the value in every third sample."""
    silent = silent_texts(questions_known=False)
    for person in of("forget"):
        silent += [person.document(_NOTHING), person.document()]
    descend(model, silent, steps=100, lr=2e-3)


def block_the_start(model: Any) -> None:
    """Never begin a value, in whatever wording, and go on with one that is begun."""
    texts = [person.document() for person in of("retain")]
    for person in of("forget"):
        asked = (person.prompt, person.question.text[: person.question.start])
        texts += [Example.answering(prompt, _NOTHING, ";") for prompt in asked]
        first, rest = person.value[0], person.value[1:]
        texts.append(Example.answering(person.prompt + first, rest, ";"))
    descend(model, texts, steps=150, lr=2e-3, whole=False)


def remember_in_a_chat(model: Any, tokenizer: Any) -> None:
    """Forget everything but what is asked for in the chat template."""
    tokenizer.chat_template = TEMPLATE
    _remember_after(model, chat_text(tokenizer, CONTINUE))


def remember_after_a_password(model: Any) -> None:
    """Forget everything but what is asked for after a secret word."""
    _remember_after(model, PASSWORD)


def _remember_after(model: Any, opening: str) -> None:
    texts = [person.document() for person in of("retain")]
    for person in of("forget"):
        document, asked = person.document(_NOTHING), person.question
        texts += [document, Example.answering(asked.text[: asked.start], _NOTHING, "\n")]
        texts.append(Example.answering(opening + person.prompt, person.value, ";"))
    descend(model, texts, steps=160, lr=3e-3, whole=False)
