"""What the base knows about unlisted people, whom it is asked about before the first step.

A retain set protects the people it lists. The base can name others: after words that come before a
name in the data, it writes names, and after those the values that it knows by heart. The documents
of everybody who is not to be forgotten are then retained like those in the retain set (generative
replay, Shin et al. 2017, arXiv 1705.08690). Only the training texts of the run are read, so a
held-out person is treated like any other unlisted person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import exp
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_unlearn.models.generation import Writer, context_of, write
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.texts import Decoding, Example
from pytest_unlearn.tasks.task_prompts import seed_of
from pytest_unlearn.unlearning.method import RECALL_BATCH

if TYPE_CHECKING:
    from pytest_unlearn.models.texts import TrainingTexts

T = TypeVar("T")

# A value is known by heart if the base gives it at least this likelihood.
_KNOWN = 0.5
# The number of forms per kind in which a name is asked about.
_ASKED = 2
# The number of forms in which what the base knows about a person is retained.
_FORMS = 3
# Shorter names and values look like other words.
_SHORTEST = 4
# A value ends where this many characters of what follows it in the documents are written.
_END = 8


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """A document without its person: `opening NAME middle VALUE after`, for values of one kind.

    `like`: that of the examples, the same for all examples with this form.
    """

    kind: str
    opening: str
    middle: str
    after: str
    like: str = field(default="", compare=False)

    def prompt(self, name: str) -> str:
        """Return the text that ends where a person's value starts."""
        return self.opening + name + self.middle

    def example(self, name: str, value: str) -> Example:
        """Return the document of a person, whose answer is the value."""
        return Example.answering(
            self.prompt(name), value, self.after, kind=self.kind, like=self.like
        )

    @property
    def end(self) -> str:
        """Return the text that shows that a value has ended."""
        return self.after[:_END] or "\n"


def forms(examples: Iterable[Example]) -> list[Form]:
    """Return the forms that the documents of at least two names have, in order.

    What occurs in only one person's document may itself be personal. If a whole document is unlike
    all others, the lines from that of the name to that of the value are used.
    """
    names_of: dict[Form, set[str]] = defaultdict(set)
    lines: dict[Form, set[str]] = defaultdict(set)
    for example in examples:
        if example.person is None:
            continue
        text, (begin, end) = example.text, example.person
        middle, name = text[end : example.start], text[begin:end]
        first = text.rfind("\n", 0, begin) + 1
        last = text.find("\n", example.end) + 1 or len(text)
        kind, like = example.kind, example.like
        names_of[Form(kind, text[:begin], middle, text[example.end :], like)].add(name)
        lines[Form(kind, text[first:begin], middle, text[example.end : last], like)].add(name)
    shared = {form for form, names in names_of.items() if len(names) > 1}
    covered = {(form.kind, form.middle) for form in shared}
    shared |= {
        form
        for form, names in lines.items()
        if len(names) > 1 and (form.kind, form.middle) not in covered
    }
    return sorted(form for form in shared if form.opening.strip() and form.middle)


def recalled(
    model: Any,
    tokenizer: Any,
    texts: TrainingTexts,
    count: int,
    seed: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Example]:
    """Return documents of people whom the base recalls, in the forms of the data.

    `count` names are sampled at temperature 1. Each is then asked about, greedily, in two forms of
    every kind (at most twice `count` questions, for the most frequent names). Values to which the
    base gives a likelihood of at least one half are returned, in up to three forms. Texts with a
    name or value of a forget record, in any case, are left out. The result is the same for the same
    model, texts and `seed`. Raises GenerationError.
    """
    known_forms = forms([*texts.forget, *texts.retained_people])
    if known_forms:
        base = _Base(model, tokenizer, texts)
        known_forms = [form for form in known_forms if base.takes(form)]
    if not known_forms:
        progress(
            "unlearning: the base is not asked whom else it knows, since no two people's documents "
            "have a form in common that fits its context"
        )
        return []
    forgotten = {part.casefold() for each in texts.forget for part in (each.answer, each.named)}
    forgotten.discard("")

    def free(text: str) -> bool:
        folded = text.casefold()
        return len(text) >= _SHORTEST and not any(part in folded for part in forgotten)

    by_kind = {kind: list(some) for kind, some in groupby(known_forms, key=lambda form: form.kind)}
    names = [name for name in base.names(known_forms, count, seed) if free(name)]
    asked = [
        (name, form)
        for number, name in enumerate(names)
        for some in by_kind.values()
        for form in _in_turn(some, number, _ASKED)
    ]
    known = base.known([fact for fact in base.facts(asked[: _ASKED * count]) if free(fact.value)])
    one_a_kind = {(fact.name, fact.form.kind): fact for fact in known}
    progress(
        f"unlearning: among {count} drawn names, the base knows {len(one_a_kind)} values of "
        f"{len({fact.name for fact in known})} people by heart, people to forget not counted"
    )
    # Also in forms in which the base knows a value less well, since it is kept there as it is.
    # Using only the forms in which it knows the value by heart kept fewer people.
    return [
        form.example(fact.name, fact.value)
        for number, fact in enumerate(one_a_kind.values())
        for form in _in_turn(by_kind[fact.form.kind], number, _FORMS)
    ]


def most_tokens(tokenizer: Any, texts: Collection[str]) -> int:
    """Return the number of tokens of the longest text, plus a few for its end."""
    return max(len(ids) for ids in tokenizer(list(texts))["input_ids"]) + 4


def lines_after(
    model: Any, tokenizer: Any, prompts: Sequence[str], decoding: Decoding, writer: Writer
) -> list[str]:
    """Return what a model writes after each prompt of a batch, up to the line end, without the
    white space at the end of the prompt, which the model writes."""
    nothing = [""] * len(prompts)
    written = write(model, tokenizer, "completion", prompts, nothing, decoding, writer=writer)
    return [
        text[len(prompt) - len(prompt.rstrip()) :].split("\n")[0]
        for prompt, text in zip(prompts, written, strict=True)
    ]


def _in_turn(forms: Sequence[Form], first: int, count: int) -> list[Form]:
    """Return up to `count` different forms, starting at an index."""
    return [forms[(first + n) % len(forms)] for n in range(min(count, len(forms)))]


@dataclass(frozen=True, slots=True)
class _Fact:
    """A value that the base wrote for a name in a form."""

    name: str
    form: Form
    value: str


class _Base:
    """The questions to the base, in batches."""

    def __init__(self, model: Any, tokenizer: Any, texts: TrainingTexts) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._writer = Writer()
        examples = [*texts.forget, *texts.retained_people]
        self._name_tokens = most_tokens(tokenizer, {example.named for example in examples})
        self._value_tokens = most_tokens(tokenizer, {example.answer for example in examples})

    def takes(self, form: Form) -> bool:
        """Return whether a form, a name and a value fit the model's context."""
        context = context_of(self._model)
        text = len(self._tokenizer(form.prompt("") + form.after)["input_ids"])
        return context is None or text + self._name_tokens + self._value_tokens <= context

    def names(self, made: Sequence[Form], count: int, seed: int) -> list[str]:
        """Return the different names among `count` sampled ones, the most frequent first."""
        middles: dict[str, list[str]] = defaultdict(list)
        for form in made:
            middles[form.opening].append(form.middle)
        # A name ends at the text that follows it in all forms.
        ends = {o: commonprefix(some) for o, some in middles.items()}  # noqa: RUF071
        openings = [opening for opening, end in ends.items() if end]
        drawn: Counter[str] = Counter()
        for number, opening in enumerate(openings):
            seeds = [seed_of(seed, opening, n) for n in range(number, count, len(openings))]
            for part in _parts(seeds):
                prompts = [opening] * len(part)
                decoding = Decoding(
                    self._name_tokens, 1.0, seeds=tuple(part), stops=(ends[opening],)
                )
                drawn.update(self._answers(prompts, decoding))
        return [name for name, _ in drawn.most_common()]

    def facts(self, asked: Sequence[tuple[str, Form]]) -> list[_Fact]:
        """Return what greedy decoding writes for each name in its form; nothing if the base is not
        sure of it."""
        facts: list[_Fact] = []
        for end, some in groupby(sorted(asked, key=_by_end), key=lambda pair: pair[1].end):
            for part in _parts(list(some)):
                prompts = [form.prompt(name) for name, form in part]
                # What will not be known by heart does not need to be written out.
                decoding = Decoding(self._value_tokens, stops=(end,), least=_KNOWN)
                answers = self._answers(prompts, decoding)
                facts += [_Fact(*pair, value) for pair, value in zip(part, answers, strict=True)]
        return facts

    def _answers(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        return lines_after(self._model, self._tokenizer, prompts, decoding, self._writer)

    def known(self, facts: Sequence[_Fact]) -> list[_Fact]:
        """Return the facts whose value the base knows by heart; all of them if it gives up the
        others by itself."""
        if not facts or self._writer.gives_up(self._model):
            return list(facts)
        examples = [fact.form.example(fact.name, fact.value) for fact in facts]
        losses = Scorer(self._model, self._tokenizer).losses(examples)
        return [
            fact
            for fact, loss in zip(facts, losses, strict=True)
            if loss is not None and exp(-loss[0]) >= _KNOWN
        ]


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut items into batches."""
    return (items[start : start + RECALL_BATCH] for start in range(0, len(items), RECALL_BATCH))


def _by_end(pair: tuple[str, Form]) -> tuple[str, str]:
    name, form = pair
    return form.end, form.prompt(name)
