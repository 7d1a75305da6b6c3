"""What is printed instead of a run: the list of metrics, or the plan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_unlearn.gates.reference import metric_lines
from pytest_unlearn.options import SettingsError, is_active, judging_of
from pytest_unlearn.reports.breakdown import aligned


def show(config: pytest.Config) -> int:
    """Print and return the exit code. Raises pytest.UsageError, as a run would."""
    if config.option.unlearn_metrics:
        try:
            confidence = judging_of(config).confidence
        except SettingsError as error:
            raise pytest.UsageError(str(error)) from error
        print("\n".join(metric_lines(confidence)))
        return 0
    if not is_active(config):
        raise pytest.UsageError("--unlearn-plan: name a model, as in --unlearn-model=tiny")
    from pytest_unlearn.session import SESSION

    config._do_configure()  # as pytest's own --markers and --fixtures do
    try:
        print("\n".join(_plan(config)))
    finally:
        if SESSION in config.stash:
            config.stash[SESSION].finish()
        config._ensure_unconfigure()
    return 0


def _plan(config: pytest.Config) -> Iterator[str]:
    from pytest_unlearn.plan import plan, plan_sweep
    from pytest_unlearn.reports.terminal import header
    from pytest_unlearn.session import SESSION

    session = config.stash[SESSION]
    lines, tables = (
        plan_sweep(session.pairs, session.dataset)
        if session.sweeps
        else plan(session.settings, session.dataset)
    )
    yield header(session)
    yield from lines
    for table in tables:
        yield ""
        yield from aligned(table)
