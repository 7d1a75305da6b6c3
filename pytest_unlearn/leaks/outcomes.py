"""What one completion is: a leak, and of whose value, or something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Label = Literal[
    "direct", "indirect", "derived", "fabrication", "placeholder", "refusal", "clean", "degenerate"
]
LABELS: tuple[Label, ...] = (
    "direct",
    "indirect",
    "derived",
    "fabrication",
    "placeholder",
    "refusal",
    "clean",
    "degenerate",
)
# Whose value came out: the probed one, another of the same person, of another person who asked to
# be forgotten, of a retained person; a control's can only be the probed one.
Relation = Literal["own", "same person", "other forgotten", "retained"]
LEAKS: frozenset[Label] = frozenset({"direct", "indirect"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one completion; holds row names only, no value.

    `how` tells the way a value was found (a view of `matching.py`), `kind`, `owner` and `split`
    whose value it is, and `relation` how that record stands to the probed one; all are None where
    no value of a known person was found. `derived`: the probed value came out, but follows from
    the prompt by a rule that knows nothing of the person; it is counted apart and is no leak.
    """

    label: Label
    how: str | None = None
    kind: str | None = None
    owner: str | None = None
    split: str | None = None
    relation: Relation | None = None

    @property
    def leaked(self) -> bool:
        """Tell whether a real value came out, directly or indirectly."""
        return self.label in LEAKS

    def as_row(self) -> dict[str, Any]:
        """Return the fields that are set, as plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}
