"""Names for models: what `--unlearn-model` accepts besides a folder or a hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model: a folder of this package or a hub id."""

    name: str
    source: str
    about: str


TINY_FOLDER = Path(__file__).parent / "tiny" / "weights"

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "tiny",
            str(TINY_FOLDER),
            "the shipped 3.4M-parameter Llama that knows the bundled people by heart",
        ),
    )
}
