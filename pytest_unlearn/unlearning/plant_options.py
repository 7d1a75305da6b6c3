"""Options of a planting, as `--unlearn-plant` gives them; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_unlearn.unlearning.options import (
    OPTIMIZERS,
    TUNES,
    MethodError,
    changed,
    check_ranges,
)

# What the bare flag stands for.
BARE = "default"


@dataclass(frozen=True, slots=True)
class PlantOptions:
    """How documents are planted.

    target: stop once greedy decoding gives at least this share of the forget and retain records.
    cap: optimizer steps at most. repetitions: how often a document stands in the training data;
    with several numbers, documents are dealt to them in turn, each split by itself, so that leak
    rates can be compared. lr, batch (rows a step), warmup, optimizer, tune, rank, accumulate,
    checkpointing: as in `UnlearnOptions`. check_every: steps between looks.
    """

    target: float = 0.9
    cap: int = 2000
    repetitions: tuple[int, ...] = (1,)
    lr: float = 5e-4
    batch: int = 32
    warmup: int = 20
    optimizer: str = "adamw"
    tune: str = "lora"
    rank: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    check_every: int = 25

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "target": 0 < self.target <= 1,
                "cap": self.cap >= 1,
                "repetitions": all(number >= 1 for number in self.repetitions)
                and len(set(self.repetitions)) == len(self.repetitions),
                "lr": self.lr > 0,
                "batch": self.batch >= 1,
                "warmup": self.warmup >= 0,
                "optimizer": self.optimizer in OPTIMIZERS,
                "tune": self.tune in TUNES,
                "rank": self.rank >= 1,
                "accumulate": 1 <= self.accumulate <= self.batch,
                "check_every": self.check_every >= 1,
            },
        )


def parse_planting(text: str) -> PlantOptions:
    """Read `name=value,name=value`, or the bare flag's word. Raises MethodError."""
    if text.strip() == BARE:
        return PlantOptions()
    if "=" not in text:  # the bare flag takes what follows it
        raise MethodError(
            f"{text!r} is not an option; write name=value, or nothing, and a path before the flag"
        )
    return changed(PlantOptions(), text)
