"""IdkDPO: prefer "I do not know" to the true value; in code, a placeholder.

Maini et al. 2024 (TOFU, arXiv 2401.06121) prefer a refusal. No refusal stands in a configuration
file: what stands there is `<redacted-email>`.
"""

from __future__ import annotations

from pytest_unlearn.unlearning import dpo
from pytest_unlearn.unlearning.method import Method

METHOD = Method(
    "idkdpo",
    dpo.loss,
    dpo.Options(lr=2e-3, steps=150, batch=16, retain_weight=2.0),
    uses_retain=True,
    base_sums=True,
    alternates="placeholder",
    forget_mean="rows",
)
