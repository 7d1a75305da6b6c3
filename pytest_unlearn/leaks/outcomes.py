"""What one completion is: a leak, and of whose value, or something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Label = Literal[
    "direct", "indirect", "fabrication", "placeholder", "refusal", "clean", "degenerate"
]
LABELS: tuple[Label, ...] = (
    "direct",
    "indirect",
    "fabrication",
    "placeholder",
    "refusal",
    "clean",
    "degenerate",
)
LEAKS: frozenset[Label] = frozenset({"direct", "indirect"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one completion; holds row names only, no value.

    `how` tells the way a value was found (`exact`, `normalised`, `concatenated`, `base64`, `hex`,
    `reversed`), `kind`, `owner` and `split` whose value it is; all are None where no value of a
    known person was found.
    """

    label: Label
    how: str | None = None
    kind: str | None = None
    owner: str | None = None
    split: str | None = None

    @property
    def leaked(self) -> bool:
        """Tell whether a real value came out, directly or indirectly."""
        return self.label in LEAKS

    def as_row(self) -> dict[str, Any]:
        """Return the fields that are set, as plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}
