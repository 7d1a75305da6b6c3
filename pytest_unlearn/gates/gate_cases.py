"""Which cases a gate is judged on: the states that attacks make, and the populations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pytest_unlearn.gates.gate import Gate, GateError
from pytest_unlearn.gates.metrics import VALUELESS, Population, populations


def attacked(gate: Gate, cases: Iterable[Any]) -> list[Gate]:
    """Return the gate for each state that it is judged on: itself unless it is about attacks.

    `leak.worst` is judged on every state that an attack of the run makes and that can bring a value
    out, `[attack=NAME]` on those of that attack, and `leak.request` on every request; empty where
    the run has none.
    """
    key, metric = gate.metric.worst or "attack", gate.metric
    name = dict(gate.filters).get(key) or metric.attack or None
    if name is None and not metric.worst:
        return [gate]
    made = dict.fromkeys(filter(None, (getattr(case, key, "") for case in cases)))
    names = {state: state.partition("@")[0] for state in made}
    states = [state for state in made if name in (None, state, names[state])]
    states = [state for state in states if metric.attack or names[state] not in VALUELESS]
    others = tuple(pair for pair in gate.filters if pair[0] != key)
    return [replace(gate, filters=(*others, (key, state))) for state in states]


def concerns(gate: Gate, cases: Iterable[Any], requests: bool = False) -> list[Any]:
    """Return the cases that a gate counts, of any population, and its controls, in order."""
    every = list(cases)
    metric = gate.metric
    found = [
        population.filters
        for state in attacked(gate, every)
        for population in populations(metric, dict(state.filters), every, requests)
    ]
    return [
        case
        for case in every
        if any(metric.concerns(case, part) or metric.chance_rows([case], part) for part in found)
    ]


def narrowed(gate: Gate, cases: Iterable[Any], requests: bool = False) -> Gate:
    """Return the gate on its last population, the one that it is always judged on; of several
    attacks, which ask for the same values, on the first.

    Raises GateError for an attack or a request that the run does not make.
    """
    every = list(cases)
    states = attacked(gate, every)
    if not states:
        raise GateError(f"{gate.text}: {gate.none_made}")
    found = populations(gate.metric, dict(states[0].filters), every, requests)
    return on_population(states[0], found[-1])


def on_population(gate: Gate, population: Population) -> Gate:
    """Return the gate on one of its populations."""
    return replace(gate, filters=tuple(population.filters.items()))
