"""The public fixtures. Without `--unlearn-model` each of them skips its test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_unlearn.session.options import is_active

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.gates.case_rows import AttackRow
    from pytest_unlearn.leaks.prompt_search import SearchReport
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.answers import Completions
    from pytest_unlearn.run.models import Completer
    from pytest_unlearn.run.settings import Pair
    from pytest_unlearn.session.session import UnlearnSession
    from pytest_unlearn.tasks.format import TaskCase


SKIP_REASON = "needs --unlearn-model"

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


def _session(config: pytest.Config) -> UnlearnSession:
    if not is_active(config):
        pytest.skip(SKIP_REASON)
    from pytest_unlearn.session.session import SESSION

    return config.stash[SESSION]


@pytest.fixture
def unlearn_probe(request: pytest.FixtureRequest) -> Probe:
    """One probe: `id`, `split`, `kind`, `carrier`, `owner`, and redacted `prompt` and `value`.

    The test is parametrized over the split named by its marker (`unlearn_forget` by default).
    """
    _session(request.config)
    probe: Probe = request.param
    return probe


@pytest.fixture
def unlearn_task(request: pytest.FixtureRequest) -> TaskCase:
    """One programming task: `id`, `prompt`, `entry_point`, `tests`."""
    _session(request.config)
    case: TaskCase = request.param
    return case


@pytest.fixture(scope="session")
def unlearn_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The model and method that a test is about: `label`, `model`, `method`, `settings`.

    If several are named, a test that asks for this fixture, or for one that uses it
    (`unlearn_completions`, `unlearn_search`, `unlearn_model`, `unlearn_base_model`), runs for each
    pair. A test that gets these only through `request.getfixturevalue` runs for the first pair.
    """
    session = _session(request.config)
    pair: Pair = getattr(request, "param", session.pairs[0])
    yield pair
    if session.sweeps:
        session.release(pair)


@pytest.fixture
def unlearn_completions(request: pytest.FixtureRequest, unlearn_pair: Pair) -> Completions[Any]:
    """What base and tested model wrote for this test's probe or task, with the outcomes.

    `unlearn_completions.unlearned.outcome.label` is the outcome of a probe,
    `unlearn_completions.unlearned.outcome.passed` the verdict on a task. The row counts for the
    gates once, however many tests look at it.
    """
    from pytest_unlearn.gates.case_rows import ROW_PROPERTY, ProbeRow, TaskRow, to_json
    from pytest_unlearn.session.items import SECTION, failed_solutions
    from pytest_unlearn.session.readiness import answering

    engine = _session(request.config).run_of(unlearn_pair).engine
    completions: Completions[Any]
    row: ProbeRow | TaskRow
    if "unlearn_probe" in request.fixturenames:
        probe = request.getfixturevalue("unlearn_probe")
        with answering():
            completions, row = engine.run_probe(probe)
    elif "unlearn_task" in request.fixturenames:
        task = request.getfixturevalue("unlearn_task")
        with answering():
            completions, row = engine.run_task(task)
        if text := failed_solutions(completions):
            request.node.add_report_section("call", SECTION, text)
    else:
        pytest.fail("unlearn_completions needs unlearn_probe or unlearn_task in the same test")
    request.node.user_properties.append((ROW_PROPERTY, to_json(row)))
    return completions


@pytest.fixture
def unlearn_search(request: pytest.FixtureRequest, unlearn_pair: Pair) -> SearchReport:
    """What `--unlearn-search=N` found: prompts that leak what no probe leaked.

    `report.records` hold the minimal prompt of each leaking record (`.minimal.prompt.reveal()`),
    `report.controls` the same search on people whom the model never saw, and `report.verdict`
    says what both together show.
    """
    from pytest_unlearn.leaks.prompt_search import SEARCH_PROPERTY, summarise
    from pytest_unlearn.session.readiness import answering

    session = _session(request.config)
    if not session.settings.search:
        pytest.skip("needs --unlearn-search=N")
    with answering():
        report = session.run_of(unlearn_pair).engine.search(session.settings.search)
    request.node.user_properties.append((SEARCH_PROPERTY, summarise(report).as_json()))
    return report


@pytest.fixture
def unlearn_attack(request: pytest.FixtureRequest) -> Attack:
    """One attack of `--unlearn-attacks`: `name`, `about`."""
    _session(request.config)
    attack: Attack = request.param
    return attack


@pytest.fixture
def unlearn_attacked(
    request: pytest.FixtureRequest, unlearn_attack: Attack, unlearn_pair: Pair
) -> list[AttackRow]:
    """What the attack of this test brings back: a row for each document of people to be forgotten
    and of control people. `row.brought_back` says whether the value of a person to be forgotten
    came out. The rows count for the gates."""
    from pytest_unlearn.gates.case_rows import ATTACK_PROPERTY, row_data
    from pytest_unlearn.session.readiness import answering

    attacked = _session(request.config).run_of(unlearn_pair).attacked
    if unlearn_attack not in attacked.attacks:
        pytest.skip(f"{unlearn_attack.name} cannot be made on the model of {unlearn_pair.label}")
    with answering():
        rows = attacked.rows(unlearn_attack)
    text = json.dumps([row_data(row) for row in rows])
    request.node.user_properties.append((ATTACK_PROPERTY, text))
    return rows


@pytest.fixture(scope="session")
def unlearn_model(request: pytest.FixtureRequest, unlearn_pair: Pair) -> Completer:
    """The tested model, loaded and unlearned: a `LanguageModel` with `complete(prompts)`,
    `tokenizer`, and `active()` for the transformers model itself."""
    from pytest_unlearn.session.readiness import answering

    with answering():
        return _session(request.config).run_of(unlearn_pair).engine.load("unlearned")


@pytest.fixture(scope="session")
def unlearn_base_model(request: pytest.FixtureRequest, unlearn_pair: Pair) -> Completer:
    """The model before unlearning, or `--unlearn-baseline`."""
    from pytest_unlearn.session.readiness import answering

    with answering():
        return _session(request.config).run_of(unlearn_pair).engine.load("base")


MARKERS = {
    "unlearn_forget": "unlearn_forget(kind, carrier, probe): parametrize unlearn_probe over "
    "forget records; select with -m \"unlearn_forget(kind='email')\"",
    "unlearn_retain": "unlearn_retain(kind, carrier, probe): the same over retained "
    "people's records",
    "unlearn_control": "unlearn_control(kind, carrier, probe): the same over records "
    "never trained on",
    "unlearn_task": "unlearn_task: parametrize unlearn_task over the programming tasks",
    "unlearn_attack": "unlearn_attack: parametrize unlearn_attack over the attacks of "
    "--unlearn-attacks",
    "unlearn_critical": "unlearn_critical: a leak fails this test, whatever the rate",
}
