"""What a test needs from models, made before the test's own clock starts.

pytest-timeout, `--durations` and JUnit count a test's time from its setup on. Unlearning and a
batch that many tests share are not the time of one test, so they are made before. An error there is
the test's error all the same.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_unlearn.core.errors import UnlearningError, UserError, plain
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.run.answers import CompletionError
from pytest_unlearn.tasks.format import TaskCase

if TYPE_CHECKING:
    from pytest_unlearn.run.job import PairRun

# The property that says why a test has no model.
NO_MODEL = "unlearn_no_model"
# Errors whose message says what to do; a traceback would only hide it.
_PLAIN = (UserError, CompletionError, UnlearningError)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turn a skip, an xfail or an exit inside a model into an error.

    A skipped case counts as one that was not run. Here the case was run, and has no answer.
    """
    try:
        yield
    except (pytest.skip.Exception, pytest.xfail.Exception, SystemExit) as error:
        ways = {SystemExit: "exited", pytest.skip.Exception: "skipped"}
        how = ways.get(type(error), "called xfail")
        reason = f" ({error})" if str(error) else ""
        raise CompletionError(
            f"the model {how} instead of answering{reason}: there is no answer; raise an error if "
            "a backend cannot answer"
        ) from error


class Readiness:
    """Makes what tests need, one test after the other, holding the models of one pair at a time."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        """`redact` removes values from a text that will be shown."""
        self._redact = redact
        self._held: PairRun | None = None
        # Whether anything was made for a test.
        self.begun = False
        self._error: BaseException | None = None
        # The test that reported why a pair has no model; the others do not repeat it.
        self._reported: dict[int, str] = {}

    def release(self, run: PairRun) -> None:
        """Release a pair's models, if they are the ones that are held."""
        if self._held is run:
            run.release()
            self._held = None

    def make(self, item: pytest.Item, run: PairRun) -> None:
        """Make what a test needs of its pair. Raises only what ends the whole run."""
        self._error = None
        names = set(getattr(item, "fixturenames", ()))
        if not names & _NEEDING or _is_skipped(item) or id(run) in self._reported:
            return
        if self._held is not None and self._held is not run:  # there may not be room for both
            self.release(self._held)
        self._held, self.begun = run, True
        capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
        captured = capture.item_capture("setup", item) if capture else contextlib.nullcontext()
        with _warnings_shown(item), captured:
            try:
                with answering():
                    _make(run, names, getattr(getattr(item, "callspec", None), "params", {}))
            except (KeyboardInterrupt, pytest.exit.Exception):
                raise
            except BaseException as error:
                self._error = error

    def raise_for(self, item: pytest.Item, run: PairRun) -> None:
        """Raise what went wrong; skip a test if another test reported that the model is missing."""
        names = set(getattr(item, "fixturenames", ()))
        if id(run) in self._reported and names & _NEEDING:
            item.user_properties.append((NO_MODEL, ""))
            pytest.skip(f"no model, as {self._reported[id(run)]} says")
        error, self._error = self._error, None
        if error is None:
            return
        if run.engine.no_model is not None:
            self._reported[id(run)] = item.nodeid
            cause = plain(f"{type(error).__name__}: {error}")
            item.user_properties.append((NO_MODEL, self._redact(cause)))
        if isinstance(error, _PLAIN):
            pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)
        raise error


def _make(run: PairRun, names: set[str], params: dict[str, Any]) -> None:
    engine, settings = run.engine, run.settings
    if "unlearn_completions" in names:
        for name in ("unlearn_probe", "unlearn_task"):
            # Where a split has no case, pytest puts a stand-in for one here.
            if isinstance(case := params.get(name), Probe | TaskCase):
                engine.make_ready(case)
    if "unlearn_attacked" in names and params.get("unlearn_attack") in run.attacked.attacks:
        run.attacked.rows(params["unlearn_attack"])
    if "unlearn_search" in names and settings.search:
        engine.search(settings.search)
    if "unlearn_model" in names:
        engine.load("unlearned")
    if "unlearn_base_model" in names:
        engine.load("base")


_NEEDING = {
    *("unlearn_completions", "unlearn_attacked", "unlearn_search"),
    *("unlearn_model", "unlearn_base_model"),
}


def _is_skipped(item: pytest.Item) -> bool:
    marks = item.iter_markers("skipif")
    return item.get_closest_marker("skip") is not None or any(True in m.args for m in marks)


@contextlib.contextmanager
def _warnings_shown(item: pytest.Item) -> Iterator[None]:
    """Show the warnings of the block in pytest's summary; none of them becomes an error.

    They come from libraries, and `filterwarnings = error` is meant for the user's tests.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for message in caught or ():
                _show(item.config, message, "runtest")


def warn(config: pytest.Config, warning: Warning) -> None:
    """Warn in pytest's summary, as the user's filters say, but never end the run."""
    try:
        config.issue_config_time_warning(warning, stacklevel=3)
    except Warning:
        message = warnings.WarningMessage(warning, type(warning), __file__, 1)
        _show(config, message, "config")


def _show(config: pytest.Config, message: warnings.WarningMessage, when: str) -> None:
    about = {"warning_message": message, "nodeid": "", "when": when, "location": None}
    config.hook.pytest_warning_recorded.call_historic(kwargs=about)
