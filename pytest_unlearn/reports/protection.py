"""What is around the solutions of tasks, told in the header and, where it is not all, warned of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_unlearn.sandbox import Mode, Protection

_OPEN = "solutions can read and write your files, use the network and start programs"


class SandboxWarning(pytest.PytestWarning):
    """Solutions are less confined than they could be."""


def line(mode: Mode, protection: Protection | None) -> str:
    """Return the header's line, with the line break before it; nothing where there are no tasks."""
    if protection is None:
        return ""
    if mode == "off":
        return f"\nsandbox: OFF ({_OPEN})"
    text = f"\nsandbox: {mode}, {', '.join(protection.active) or 'no layer'}"
    return f"{text}; MISSING: {_missing(protection)}" if protection.missing else text


def warn(config: pytest.Config, mode: Mode, protection: Protection) -> None:
    """Warn of a sandbox that is off, or has not all of its layers."""
    if mode == "off":
        text = (
            f"--unlearn-sandbox=off: {_OPEN}; leave the flag out unless a container confines them"
        )
    elif protection.missing:
        text = (
            f"the sandbox lacks layers on this system: {_missing(protection)}; run untrusted "
            "models in a container or virtual machine, or refuse by --unlearn-sandbox=strict"
        )
    else:
        return
    config.issue_config_time_warning(SandboxWarning(text), stacklevel=2)


def _missing(protection: Protection) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in protection.missing.items())
