"""What attacks cost beside scoring the base: processor seconds on one thread.

    python benchmarks/attacks.py [--method npo+gd:steps=1] [--attacks cheap]

The base's pass scores the values of all probes, as every run does. Unlearning is not counted: one
step is enough for a model with an adapter, which is what the attacks need.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from pytest_unlearn.attacks.attack import parse_attacks
from pytest_unlearn.run.attacked import AttackedModel
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.methods import parse_method


def main() -> None:
    """Print the base's seconds, and those of each attack as a share of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--method", default="npo+gd:steps=1")
    parser.add_argument("--attacks", default="cheap")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model=given.model,
            method=parse_method(given.method),
            attacks=parse_attacks(given.attacks),
            device="cpu",
            store=Path(folder),
        )
        dataset = Dataset(settings)
        engine = Measuring(settings, dataset, threads=1)
        try:
            measure(dataset, engine, AttackedModel(settings, dataset, engine))
        finally:
            engine.close()


def measure(dataset: Dataset, engine: Measuring, model: AttackedModel) -> None:
    """Score the base, then every attack, on models that are loaded and have run once."""
    probes = [probe for probe in dataset.probes if probe.exact]
    for state in ("base", "unlearned"):
        engine.prepared_key(state)
        engine.models.model(state).complete(["x = "], 2)
    started = time.process_time()
    for probe in probes:
        engine.exact("base", probe)
    base = time.process_time() - started
    print(f"base: {len(probes)} values in {base:.2f} processor seconds")
    for probe in probes:  # what `reworded@cross` takes over, and each run has
        engine.exact("unlearned", probe)
    total = 0.0
    for attack in model.attacks:
        started = time.process_time()
        rows = model.rows(attack)
        seconds = time.process_time() - started
        total += seconds
        print(f"{attack.name}: {len(rows)} values in {seconds:.2f} s, {seconds / base:.2f}")
    print(f"together: {total:.2f} s, {total / base:.2f} of the base's pass")


if __name__ == "__main__":
    main()
