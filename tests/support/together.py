"""What each of several processes does for `test_processes.py`: it unlearns, and saves the weights.

python -m tests.support.together MODEL OUT FLAG ...

Then it trains by the flags, as `python -m pytest_unlearn.train` does, and last the second one dies.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from pytest_unlearn import train
from pytest_unlearn.models.loading import load
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.unlearning import distributed, trainer
from pytest_unlearn.unlearning.distributed import whole
from pytest_unlearn.unlearning.loop import UnlearningReport, unlearn
from pytest_unlearn.unlearning.methods import DEFAULT, parse_method
from pytest_unlearn.unlearning.trainer import gathered, save_trained
from tests.support.known_texts import KNOWN

# Rows do not come out even, and there are as few as can be.
COMMON = "lr=1e-3,steps=4,batch=5,retain_batch=7,check_every=2,target=-1,rank=4"
METHODS = ("ga+gd", "npo+kl", "simnpo")
RUNS = {
    **{f"{m} {tune}": f"{m}:{COMMON},tune={tune}" for m in METHODS for tune in ("lora", "full")},
    "parts": f"npo+kl:{COMMON},accumulate=2,checkpointing=true",
    "top": f"npo+kl:{COMMON},tune=full,kl_top=4",
    "default": f"{DEFAULT}:{COMMON},accumulate=1,substitutes=2",
    "layer": f"rmu:{COMMON}",
    "price": f"pdu:{COMMON},accumulate=2,price=0.1,price_step=1",
}
# With Adam and the norm's limit, and cut off after the first look.
ADAM = f"npo+kl:{COMMON}"


@contextlib.contextmanager
def plain_steps() -> Iterator[None]:
    """Steps of plain gradient descent: Adam's hide a wrong scale."""

    def descent(name: str, weights: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(weights, lr=0.5)

    with patch.object(trainer, "make_optimizer", descent), patch.object(trainer, "MAX_NORM", 1e9):
        yield


def trained(
    model: Path,
    text: str,
    saved: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[Any, UnlearningReport]:
    """Unlearn `KNOWN` by a method."""
    choice = parse_method(text)
    assert choice.method is not None
    assert choice.options is not None
    weights = load(ModelSource("small", model), "cpu", "float32")
    loaded: Any = weights.model
    options = choice.options
    tokenizer = weights.tokenizer
    return unlearn(loaded, tokenizer, KNOWN, choice.method, options, 0, progress, saved)


def weights_of(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained weights as wholes, by their names in the policy without shards."""
    named = {n.removeprefix("policy."): p for n, p in policy.named_parameters() if p.requires_grad}
    return {name: whole(weight).contiguous() for name, weight in named.items()}


class CutOff(Exception):
    """A run that is killed, on all processes."""


def cut_off(message: str) -> None:
    if "step 4 of" in message:
        raise CutOff


def main(model: Path, out: Path) -> None:
    """Unlearn in each way; the first process saves what all have."""
    from tests.support.small_models import byte_tokenizer

    def save(name: str, policy: Any, report: UnlearningReport) -> None:
        found = weights_of(policy)
        if distributed.number() == 0:
            facts = f"{report.steps} {report.trained_steps} {report.leak_rate} {report.kept}"
            save_file(found, out / f"{name}.safetensors", {"report": facts})

    for name, text in RUNS.items():
        with plain_steps():
            policy, report = trained(model, text)
        save(name, policy, report)
        if name in ("ga+gd lora", "ga+gd full"):
            state = gathered(policy)
            if distributed.number() == 0:
                folder = out / f"{name} saved"
                save_trained(policy, byte_tokenizer(), folder, state)
    save("adam", *trained(model, ADAM))
    saved = out / "state.safetensors"
    with contextlib.suppress(CutOff):
        trained(model, ADAM, distributed.own_file(saved), cut_off)
    assert distributed.own_file(saved).is_file()
    told: list[str] = []
    save("resumed", *trained(model, ADAM, distributed.own_file(saved), told.append))
    assert told[0] == "continuing after step 2, where the last run was cut off"
    assert distributed.own_file(saved).exists()  # until the caller has what was trained on disk


def die(message: str) -> None:
    if distributed.number() == 1 and "step 2 of" in message:
        os._exit(3)


def next_port() -> None:
    """Meet at a port of its own each time: at an old one, the other may not have left yet."""
    os.environ["MASTER_PORT"], _, os.environ["PORTS"] = os.environ["PORTS"].partition(" ")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(280, exit=True)  # one that waits for ever tells where
    model, out = map(Path, sys.argv[1:3])
    del sys.argv[1:3]
    next_port()
    distributed.join("cpu")
    main(model, out)
    distributed.leave()
    next_port()
    print("exit code", train.main(), flush=True)
    next_port()
    distributed.join("cpu")
    trained(model, ADAM, None, die)
