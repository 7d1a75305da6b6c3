"""AltPO, alternate preference optimization: prefer any of several plausible values to the true one.

Mekala et al. 2024 (arXiv 2409.13474): with one alternate the model learns that one by heart; with
several it learns to be unsure. The paper has a model write them; values have generators.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_unlearn.unlearning import dpo
from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.training_options import option


@dataclass(frozen=True, slots=True)
class Options(dpo.Options):
    """alternates: other values a record; they take turns."""

    alternates: int = option(5, least=1, most=100)


METHOD = Method(
    "altpo",
    dpo.loss,
    Options(lr=1e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="plausible",
    forget_mean="rows",
)
