"""How a run is judged: the options of gates, read into one frozen `Judging`.

The flags are declared in every pytest session, so nothing is imported for that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_unlearn.gates.baselines import Change
    from pytest_unlearn.gates.expressions import Gate


class GateOption(NamedTuple):
    """One flag and ini key: name, placeholder, help text; repeatable; without a value."""

    name: str
    metavar: str
    help: str
    many: bool = False
    switch: bool = False


GATE_OPTIONS = (
    GateOption(
        "unlearn_gate",
        "GATE",
        "a condition of release such as 'leak.direct<=5%%'; repeatable, replaces the default "
        "gates, or the profile's gate of the same name",
        many=True,
    ),
    GateOption(
        "unlearn_profile",
        "NAME",
        "a named set of gates: paper, release or strict (see --unlearn-metrics)",
    ),
    GateOption(
        "unlearn_require_complete",
        "",
        "fail where a gate is not evaluated because not all cases were run",
        switch=True,
    ),
    GateOption(
        "unlearn_stop",
        "off|curtail",
        "off: run every case (default); curtail: skip cases that can change no verdict any more",
    ),
    GateOption(
        "unlearn_save",
        "NAME",
        "keep this run's rows as .unlearn/NAME.json, to compare later runs with",
    ),
    GateOption("unlearn_compare", "NAME", "compare this run with a saved one, case by case"),
    GateOption(
        "unlearn_compare_fail",
        "CHANGE",
        "fail where a metric got worse since then by more points than that, as in "
        "'leak.direct:+1%%' or 'passk.retained:-2%%'; repeatable",
        many=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Judging:
    """Gates, and what else decides the verdict; none of it changes what is measured."""

    gates: tuple[Gate, ...]
    profile: str | None
    require_complete: bool
    curtail: bool
    save: str | None
    compare: str | None
    compare_fail: tuple[Change, ...]


def read_judging(given: Callable[[str], Any], pyproject: Path) -> Judging:
    """Return the checked options. `given(name)` is what the user gave, None for nothing.

    Gates are those given, else those of the table in `pyproject`. Raises GateError and
    BaselineError; messages begin with the flag, or with file and key.
    """
    from pytest_unlearn.gates.baselines import check_name, parse_change
    from pytest_unlearn.gates.expressions import GateError
    from pytest_unlearn.gates.profiles import choose_gates, gates_in_table

    table = gates_in_table(pyproject)  # checked even if it is not used
    profile, save, compare = (
        given(f"unlearn_{name}") or None for name in ("profile", "save", "compare")
    )
    stop = given("unlearn_stop") or "off"
    if stop not in ("off", "curtail"):
        raise GateError(f"--unlearn-stop={stop}: write one of off, curtail")
    changes = given("unlearn_compare_fail") or ()
    if changes and compare is None:
        raise GateError("--unlearn-compare-fail: name a saved run with --unlearn-compare=NAME")
    return Judging(
        gates=_flagged("--unlearn-gate", choose_gates, given("unlearn_gate") or table, profile),
        profile=profile,
        require_complete=bool(given("unlearn_require_complete")),
        curtail=stop == "curtail",
        save=check_name(save, "--unlearn-save") if save else None,
        compare=check_name(compare, "--unlearn-compare") if compare else None,
        compare_fail=tuple(
            _flagged("--unlearn-compare-fail", parse_change, text) for text in changes
        ),
    )


def _flagged(flag: str, function: Callable[..., Any], *arguments: Any) -> Any:
    from pytest_unlearn.gates.expressions import GateError

    try:
        return function(*arguments)
    except GateError as error:
        message = str(error)
        raise GateError(message if message.startswith("--") else f"{flag}: {message}") from error
