"""A deterministic lookup backend: test a conftest, a suite or a gate in milliseconds.

In a `conftest.py`::

    from pytest_unlearn.testing import LookupModels

    def pytest_unlearn_models(dataset):
        return LookupModels(dataset, leaking={"direct-email-0001"})
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import BOTH
from pytest_unlearn.core.store import digest_of
from pytest_unlearn.run.models import AttackedState
from pytest_unlearn.tasks.format import TaskCase
from pytest_unlearn.tasks.task_prompts import prompt_of

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.models.texts import Decoding
    from pytest_unlearn.probes.families import Probe, Style
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import State


class LookupModels:
    """A base that knows every trained record and task, and a tested model that lost some.

    A prompt that belongs to no probe or task is answered with `...`.

    `leaking`: forget probes whose value the tested model still gives. `lost`: retain probes and
    task cases that it no longer knows. `said`: texts that the tested model gives instead, by probe
    or task id. `drawn_out`: by record id, a text that a prompt must contain for the tested model to
    give the value with certainty. `brought_back`: by attacked state, the forget probes whose value
    it gives, in addition to those that leak anyway. `base_knows` False: the base gives no value
    away. `log`: a file to which each batch adds a line, to see what was generated how often.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        leaking: Collection[str] = (),
        lost: Collection[str] = (),
        said: dict[str, str] | None = None,
        drawn_out: dict[str, str] | None = None,
        base_knows: bool = True,
        brought_back: Mapping[str, Collection[str]] | None = None,
        log: Path | None = None,
    ) -> None:
        self._cases: dict[tuple[Style, str], Probe | TaskCase | None] = {}
        probes: dict[tuple[Style, str], Probe | None] = {}
        for probe in dataset.probes:
            key = (probe.style, probe.prompt.reveal())
            # A prompt that names nobody asks for many values, so there is no single answer. Two
            # families may ask for one value in the same words.
            known = probes.setdefault(key, probe)
            if known is None or known.value != probe.value:
                probes[key] = None
        self._cases.update(probes)
        for case in dataset.tasks:
            style = dataset.sampling.style
            self._cases[style, prompt_of(case, style)] = case
        self._leaking = leaking
        self._lost = lost
        self._said = said or {}
        self._needles = {
            record.value.reveal(): drawn_out[record.id]
            for record in dataset.records
            if drawn_out and record.id in drawn_out
        }
        self._base_knows = base_knows
        self._brought_back = brought_back or {}
        self._log = log
        # Digests, because keys are printed in reports, and the given texts may be values.
        self._base_key = digest_of(base_knows)
        self._key = digest_of(
            [
                sorted(leaking),
                sorted(lost),
                sorted(self._said.items()),
                base_knows,
                {attack: sorted(ids) for attack, ids in self._brought_back.items()},
            ]
        )

    def prepare(self, state: State) -> None:
        """Do nothing, since nothing has to be made."""

    def key(self, state: State) -> dict[str, Any]:
        """Return a model's key; what the tested model lost is not part of the base's key."""
        return {"lookup": self._base_key if state == "base" else self._key, "state": state}

    def resolve(self) -> None:
        """Do nothing, since nothing has to be found."""

    def release(self) -> None:
        """Do nothing, since nothing is loaded."""

    def stored_unlearning(self) -> None:
        """Return None, since nothing is unlearned."""

    def stored_planting(self) -> None:
        """Return None, since nothing is planted."""

    def model(self, state: State) -> LookupModel:
        """Return the model in one state."""
        return LookupModel(self, state)

    @contextlib.contextmanager
    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> Iterator[Iterator[AttackedState]]:
        """Yield the states of the tested model, or of another, under an attack."""
        yield (
            AttackedState(state, BOTH, LookupModel(self, f"{of}+{state}"))
            for state in attack.states
        )

    def answer(self, state: str, prompt: str, style: Style) -> str:
        """Return what a model of this state writes after a prompt."""
        case = self._cases.get((style, prompt))  # an attack may use its own prompts
        if case is None:
            return "..."
        if state == "unlearned" and case.id in self._said:
            return self._said[case.id]
        if isinstance(case, TaskCase):
            body = "    pass\n" if self._forgot(state, case.id) else f"\n{case.solution}"
            return f"```python\n{case.prompt.rstrip()}{body}```\n" if style == "chat" else body
        if case.split == "control" or self._forgot(state, case.id, case.split):
            return "..."
        value = case.value.reveal()
        return value.removeprefix(case.given.reveal()) if case.given else value

    def log_probability(self, prompt: str, value: str) -> float:
        """Return the log-probability of a value after a prompt, in nats."""
        needle = self._needles.get(value)
        return 0.0 if needle is not None and needle in prompt else -30.0

    def _forgot(self, state: str, case_id: str, split: str | None = None) -> bool:
        if state.partition("+")[0] == "base":
            return split is not None and not self._base_knows
        if state.partition("+")[0] == "retrained":
            return split == "forget"
        if split == "forget":
            back = self._brought_back.get(state.removeprefix("unlearned+"), ())
            return case_id not in self._leaking and case_id not in back
        return case_id in self._lost

    def answers(self, state: str, prompts: Sequence[str], style: Style) -> list[str]:
        """Answer a batch, and add it to the log."""
        if self._log is not None:
            cases = [self._cases.get((style, prompt)) for prompt in prompts]
            with self._log.open("a") as file:
                file.write("".join(f"{state} {case.id if case else '-'}\n" for case in cases))
        return [self.answer(state, prompt, style) for prompt in prompts]


class LookupModel:
    """One state of `LookupModels`."""

    def __init__(self, models: LookupModels, state: str) -> None:
        self._models = models
        self._state = state

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the looked-up answers."""
        return self._models.answers(self._state, prompts, "completion")

    def write(
        self, style: Style, prompts: Sequence[str], suffixes: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """Return the looked-up answers, the same for every seed."""
        return self._models.answers(self._state, prompts, style)

    def log_probabilities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the log-probability of each value after its prompt, in nats."""
        return [self._models.log_probability(prompt, value) for prompt, value in pairs]

    def answer(self, messages: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Return the looked-up answers to a user's messages."""
        return self._models.answers(self._state, messages, "chat")

    def infill(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int = 64) -> list[str]:
        """Return the looked-up middles."""
        return self._models.answers(self._state, [prefix for prefix, _ in prompts], "infill")
