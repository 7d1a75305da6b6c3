"""What a case came to on both models of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pytest_unlearn.leaks.outcomes import Outcome
from pytest_unlearn.people.secret import Secret
from pytest_unlearn.sandbox import Verdict

# An `Outcome` for a probe, a `Verdict` for a task.
Judged = TypeVar("Judged", Outcome, Verdict)


@dataclass(frozen=True, slots=True)
class Completion(Generic[Judged]):
    """What a model wrote after a prompt, and what that is.

    `outcome` is an `Outcome` for a probe and the sandbox's `Verdict` for a task. `text` is redacted
    when printed; `text.reveal()` gives it.
    """

    text: Secret
    outcome: Judged


@dataclass(frozen=True, slots=True)
class Completions(Generic[Judged]):
    """The completions of one case by the base and by the tested model.

    Of a task all samples; `base` and `unlearned` are the first ones.
    """

    base: Completion[Judged]
    unlearned: Completion[Judged]
    base_samples: tuple[Completion[Judged], ...] = ()
    unlearned_samples: tuple[Completion[Judged], ...] = ()
