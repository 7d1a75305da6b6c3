"""The pytest plugin: hooks only. Inert, and free of heavy imports, until a model is named."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_unlearn.session import options
from pytest_unlearn.session.fixtures import (
    SKIP_REASON,
    unlearn_attack,
    unlearn_attacked,
    unlearn_base_model,
    unlearn_completions,
    unlearn_model,
    unlearn_pair,
    unlearn_probe,
    unlearn_search,
    unlearn_task,
)

if TYPE_CHECKING:
    from pytest_unlearn.session.session import UnlearnSession

__all__ = [
    "unlearn_attack",
    "unlearn_attacked",
    "unlearn_base_model",
    "unlearn_completions",
    "unlearn_model",
    "unlearn_pair",
    "unlearn_probe",
    "unlearn_search",
    "unlearn_task",
]


def _session(config: pytest.Config) -> UnlearnSession | None:
    """Return the session's state, or None if no model was named."""
    if not options.is_active(config):
        return None
    from pytest_unlearn.session.session import SESSION

    return config.stash.get(SESSION, None)  # missing if a setting was wrong


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the flags and ini keys."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others can implement."""
    from pytest_unlearn.session import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; with a model, read settings and data, and choose what is collected."""
    from pytest_unlearn.session.fixtures import MARKERS

    for line in MARKERS.values():
        config.addinivalue_line("markers", line)
    if options.is_active(config):
        from pytest_unlearn.session.session import SESSION, UnlearnSession, choose_paths

        state = config.stash[SESSION] = UnlearnSession(config)
        choose_paths(config, state.settings)
    elif not (options.replays(config) or config.option.unlearn_metrics):
        options.refuse_without_model(config)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Refuse misspelt keys; print metrics or plan, or judge an earlier run's rows, if asked to."""
    options.refuse_misspelt(config)
    options.take_extensions(config)
    shows = config.option.unlearn_metrics or config.option.unlearn_plan
    if not (shows or options.replays(config)):
        return None
    from pytest_unlearn.session import commands

    return commands.show(config) if shows else commands.replay(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the models before any test needs one."""
    if state := _session(session.config):
        state.start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the sandbox's processes."""
    if state := _session(session.config):
        state.finish()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is tested."""
    if state := _session(config):
        from pytest_unlearn.session import terminal

        return terminal.header(state)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests over probes and tasks."""
    if state := _session(metafunc.config):
        from pytest_unlearn.session import items

        items.parametrize(metafunc, state.dataset, state.pairs)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note the row of a measured test, so that an error and a missing case can be told apart."""
    if _session(item.config):
        from pytest_unlearn.session import items

        items.tag(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Make the models and completions that a test needs before any clock of its own starts."""
    if state := _session(item.config):
        state.make_ready(item)
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that lack a model or cannot change a verdict; fail those whose models failed."""
    if state := _session(item.config):
        state.set_up(item)
    elif not options.is_active(item.config):
        from pytest_unlearn.session.fixtures import MARKERS

        if any(mark.name in MARKERS for mark in item.iter_markers()):
            pytest.skip(SKIP_REASON)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose probe leaked, if the user chose that."""
    report = yield
    if state := _session(item.config):
        from pytest_unlearn.session import items

        items.fail_on_leak(item, report, always=state.settings.fail_on_leak)
        state.tell_values(item, report)
    return report


def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport, config: pytest.Config
) -> Any:
    """Give leaks and unsolved tasks a category and a letter of their own."""
    if _session(config):
        from pytest_unlearn.session import terminal

        return terminal.status(report)
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around other plugins', which may count failures
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Judge the gates once all tests have run; later would be too late for the exit code."""
    state = _session(session.config)
    with state.judging(session) if state else contextlib.nullcontext():
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured and the verdict."""
    if state := _session(terminalreporter.config):
        from pytest_unlearn.session import terminal

        terminal.summary(state, terminalreporter)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass an xdist worker what it cannot know on its own."""
    if state := _session(node.config):
        state.tell(node.workerinput)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Let `-n auto` mean one worker per GPU, if there are GPUs."""
    if options.is_active(config):
        from pytest_unlearn.session import xdist

        return xdist.visible_gpus() or None
    return None
