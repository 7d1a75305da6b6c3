"""Hooks that a `conftest.py` or another plugin can implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import pytest

    from pytest_unlearn.gates.case_rows import Row
    from pytest_unlearn.gates.verdicts import GateResult
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Models
    from pytest_unlearn.run.settings import Settings

hookspec = pluggy.HookspecMarker("pytest")


def pytest_unlearn_extensions() -> Sequence[object]:  # type: ignore[empty-body]
    """Return methods, attacks, metrics, presets and report formats of your own.

    Return objects of the classes `Method`, `Attack`, `Metric`, `Preset` and `ReportFormat`; each is
    used by its name, like the built-in ones. Called in each process before any setting is read, so
    it must be in a `conftest.py` that pytest loads first: in the folder where pytest is started, or
    of a path on its command line.

    .. versionadded:: 0.1
    """


@hookspec(firstresult=True)
def pytest_unlearn_models(
    config: pytest.Config, settings: Settings, dataset: Dataset
) -> Models | None:
    """Return models to use instead of those that `--unlearn-model` names, for example behind a
    server.

    Called once in each process for each pair of model and method, before collection: load nothing
    yet. `settings` are the pair's. The protocol `Models` describes the object, and
    `pytest_unlearn.testing.LookupModels` is a small example. If it has a method `release()`, that
    is called when a pair's tests are over: free the memory for the next pair.

    .. versionadded:: 0.1
    """


def pytest_unlearn_judged(
    config: pytest.Config,
    settings: Settings,
    results: Sequence[GateResult],
    rows: Sequence[Row],
) -> None:
    """Called on the controller when all gates have been judged, once for each pair of a sweep.

    `settings` are the pair's (`settings.model`, `settings.method.name`). `rows` hold names and
    labels, no personal data. For example, to send the verdicts to MLflow::

        def pytest_unlearn_judged(results):
            for result in results:
                mlflow.set_tag(result.gate.name, result.verdict.value)

    .. versionadded:: 0.1
    """
