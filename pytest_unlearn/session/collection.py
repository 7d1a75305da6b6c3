"""Rows as pytest cases: which rows a test is parametrized over, their ids and marks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import pytest

from pytest_unlearn.attacks.attack import Attack
from pytest_unlearn.people.record import Split
from pytest_unlearn.probes.families import Probe
from pytest_unlearn.tasks.format import TaskCase

if TYPE_CHECKING:
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.settings import Pair

# The property with the id of a test's row, so that a test that ends in an error has one too.
CASE_PROPERTY = "unlearn_case"
# The property with the name of a test's attack.
ATTACK_NAME = "unlearn_attack"
# The property with the label of the pair of a test or gate, in a sweep.
PAIR_PROPERTY = "unlearn_pair"

_SPLIT_OF = {f"unlearn_{split}": split for split in get_args(Split)}
# A test that uses one of these asks a model.
MODEL_FIXTURES = {
    *("unlearn_model", "unlearn_base_model", "unlearn_completions", "unlearn_probe"),
    *("unlearn_task", "unlearn_search", "unlearn_attacked"),
}
# What a marker can be narrowed by, and the attribute of the probe that it names.
_FILTERS = {"kind": "kind", "carrier": "carrier", "probe": "family"}


def parametrize(metafunc: pytest.Metafunc, dataset: Dataset, pairs: Sequence[Pair]) -> None:
    """Parametrize a test over probes, tasks or attacks and, in a sweep, over all pairs.

    Raises pytest.UsageError for markers that match nothing.
    """
    fixtures = {"unlearn_probe", "unlearn_task"} & set(metafunc.fixturenames)
    if len(fixtures) == 2:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: ask for unlearn_probe or for unlearn_task, not for both"
        )
    if len(pairs) > 1 and "unlearn_pair" in metafunc.fixturenames:
        ids = [pair.id for pair in pairs]
        metafunc.parametrize("unlearn_pair", pairs, ids=ids, indirect=True, scope="session")
    if "unlearn_probe" in fixtures:
        parameters = [
            pytest.param(
                probe,
                id=probe.id,
                marks=getattr(pytest.mark, f"unlearn_{probe.split}")(
                    **{key: getattr(probe, name) for key, name in _FILTERS.items()}
                ),
            )
            for probe in _marked_probes(metafunc.definition, dataset)
        ]
        metafunc.parametrize("unlearn_probe", parameters, indirect=True)
    elif "unlearn_task" in fixtures:
        tasks = [
            pytest.param(case, id=case.id, marks=pytest.mark.unlearn_task(task=case.task_id))
            for case in dataset.tasks
        ] + [
            pytest.param(case, id=case.id, marks=pytest.mark.skip(why))
            for why, cases in dataset.left_out.items()
            for case in cases
        ]
        metafunc.parametrize("unlearn_task", tasks, indirect=True)
    if "unlearn_attack" in metafunc.fixturenames:
        made = {a.name: a for p in pairs for a in dataset.attacks.made(p.settings.method)}
        attacks = [
            pytest.param(attack, id=name, marks=pytest.mark.unlearn_attack(attack=name))
            for name, attack in made.items()
        ]
        impossible = {
            name: f"NOT EVALUATED: cannot be made on this model: {reason}"
            for pair in pairs
            for name, reason in dataset.attacks.impossible(pair.settings.method).items()
            if name not in made
        }
        attacks += [
            pytest.param(None, id=name, marks=pytest.mark.skip(why))
            for name, why in impossible.items()
        ]
        if not attacks:
            needed = pytest.mark.skip("needs --unlearn-attacks=NAME")
            attacks = [pytest.param(None, id="none", marks=needed)]
        metafunc.parametrize("unlearn_attack", attacks, indirect=True)


def _marked_probes(definition: pytest.Item, dataset: Dataset) -> Iterator[Probe]:
    """Yield the probes that the markers of a test select; without a marker, the forget split."""
    selections: list[tuple[str, dict[str, str]]] = []
    for mark in definition.iter_markers():
        if mark.name in _SPLIT_OF:
            unknown = set(mark.kwargs) - set(_FILTERS)
            if mark.args or unknown:
                raise pytest.UsageError(
                    f"{definition.nodeid}: {mark.name} takes kind=, carrier= and probe=, not "
                    f"{sorted(unknown) or list(mark.args)}"
                )
            selections.append((_SPLIT_OF[mark.name], dict(mark.kwargs)))
    for filters in (filters for _, filters in selections):
        for key, value in filters.items():
            known = sorted({getattr(probe, _FILTERS[key]) for probe in dataset.probes})
            if value not in known:
                raise pytest.UsageError(
                    f"{definition.nodeid}: no record has {key}={value!r}; known: {', '.join(known)}"
                )
    for probe in dataset.probes:
        for split, filters in selections or [("forget", {})]:
            if probe.split == split and all(
                getattr(probe, _FILTERS[key]) == value for key, value in filters.items()
            ):
                yield probe
                break


def tag(item: pytest.Item) -> None:
    """Write row and pair into an item's properties, so that all of its reports have them.

    A Hypothesis test gets settings that leave a model enough time.
    """
    _ease_property(item)
    callspec = getattr(item, "callspec", None)
    params: dict[str, Any] = {} if callspec is None else callspec.params
    if "unlearn_pair" in params:
        item.user_properties.append((PAIR_PROPERTY, params["unlearn_pair"].label))
    if isinstance(attack := params.get("unlearn_attack"), Attack):
        item.user_properties.append((ATTACK_NAME, attack.name))
    for name in ("unlearn_probe", "unlearn_task"):
        # Where a split has no case, pytest puts a stand-in for one here.
        if isinstance(case := params.get(name), Probe | TaskCase):
            item.user_properties.append((CASE_PROPERTY, case.id))


def _ease_property(item: pytest.Item) -> None:
    """Give Hypothesis the time that a model takes, for a `@given` test that asks for one.

    Our fixtures are the same for all examples of a test, so their scope is not a problem. A failing
    example belongs to a model and not to the code, so none is kept for the next run. All other
    settings stay the user's.
    """
    test: Any = getattr(item, "obj", None)
    test = getattr(test, "__func__", test)  # of a class, its function has the settings
    asked = set(getattr(item, "fixturenames", ()))
    if not getattr(test, "is_hypothesis_test", False) or not asked & MODEL_FIXTURES:
        return
    from hypothesis import HealthCheck, settings

    mine = test._hypothesis_internal_use_settings
    test._hypothesis_internal_use_settings = settings(
        mine,
        deadline=None,
        database=None,
        suppress_health_check=[
            *mine.suppress_health_check,
            *(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
            HealthCheck.differing_executors,  # a class's test over probes; it minds the database
        ],
    )


class PairOrder:
    """Orders the tests of a sweep pair by pair, so that only one pair's models are loaded.

    The pair of an erasure request has no tests of what is asked only after a later request.
    """

    def __init__(self, cases: Mapping[str, Collection[str]]) -> None:
        """`cases`: the ids of each pair's own cases, by its label, in order."""
        self._cases = cases
        self._places = {label: place for place, label in enumerate(cases)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests by pair; those without a pair come first.

        Within a pair, the order stays.
        """
        items[:] = sorted(filter(self._is_asked, items), key=self._place)

    def _is_asked(self, item: pytest.Item) -> bool:
        pair, case = (_property(item, name) for name in (PAIR_PROPERTY, CASE_PROPERTY))
        return pair is None or case is None or case in self._cases[pair]

    def _place(self, item: pytest.Item) -> int:
        pair = _property(item, PAIR_PROPERTY)
        return 0 if pair is None else self._places[pair]


def _property(item: pytest.Item, key: str) -> str | None:
    return next((str(value) for name, value in item.user_properties if name == key), None)


class ShardSelection:
    """Selects the tests of a shard: those of its cases and of its attacks.

    What belongs to no case (a search, a user's own test) is in the first shard.
    """

    def __init__(
        self, parts: Mapping[str, tuple[Collection[str], Collection[str]]], first: bool
    ) -> None:
        """`parts`: the ids of the shard's cases and the names of its attacks, by pair."""
        self._parts = parts
        self._first = first

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the tests of other shards."""
        own = list(filter(self._is_own, items))
        if len(own) < len(items):
            selected = set(own)
            others = [item for item in items if item not in selected]
            items[:] = own
            config.hook.pytest_deselected(items=others)

    def _is_own(self, item: pytest.Item) -> bool:
        cases, attacks = self._parts[_property(item, PAIR_PROPERTY) or next(iter(self._parts))]
        case, attack = _property(item, CASE_PROPERTY), _property(item, ATTACK_NAME)
        if attack is not None:
            return attack in attacks
        return self._first if case is None else case in cases
