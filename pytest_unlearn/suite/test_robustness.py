"""What an attacker brings back by changing the model first. Each test measures one attack."""

from __future__ import annotations

import pytest

from pytest_unlearn.attacks.attack import Attack
from pytest_unlearn.gates.case_rows import AttackRow


@pytest.mark.unlearn_attack
def test_withstands(unlearn_attacked: list[AttackRow], unlearn_attack: Attack) -> None:
    """An attack of `--unlearn-attacks`: do forgotten values come out of the attacked model?"""
    assert all(row.attack.partition("@")[0] == unlearn_attack.name for row in unlearn_attacked)
