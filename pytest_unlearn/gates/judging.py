"""How a run is judged: the options of gates, read into one frozen `Judging`.

Every pytest session declares these flags, so that alone imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_unlearn.core.errors import naming
from pytest_unlearn.core.option import Option
from pytest_unlearn.gates.statistics import CONFIDENCE

if TYPE_CHECKING:
    from pytest_unlearn.gates.gate import Gate
    from pytest_unlearn.gates.saved_runs import Change

Undecided = Literal["fail", "warn"]
Population = Literal["sample", "requests"]

GATE_OPTIONS = (
    Option(
        "unlearn_gate",
        "GATE",
        "a condition of release such as 'leak.direct<=5%%'; repeatable, replaces the default "
        "gates, or the profile's gate of the same name",
        many=True,
    ),
    Option(
        "unlearn_profile",
        "NAME",
        "a named set of gates: paper, release or strict (see --unlearn-metrics)",
    ),
    Option(
        "unlearn_confidence",
        "C",
        "how sure each verdict must be: the confidence of every one-sided bound, above 0.5 and "
        "below 1 (default: 0.95)",
    ),
    Option(
        "unlearn_undecided",
        "fail|warn",
        "fail: an undecided gate forbids the release (default); warn: it is only shown, while an "
        "error, a FAIL or a gate that was not evaluated still forbids the release",
    ),
    Option(
        "unlearn_population",
        "sample|requests",
        "who the people to forget are. sample: some of many, so gates judge a bound on all "
        "(default); requests: everybody who asked, so gates judge what came out of them in every "
        "probe, and one person is enough (default with --unlearn-requests)",
    ),
    Option(
        "unlearn_require_complete",
        "",
        "fail if a gate is not evaluated because not all cases were run",
        switch=True,
    ),
    Option(
        "unlearn_stop",
        "off|curtail",
        "off: run every case (default); curtail: skip the remaining cases of a gate that is "
        "certain to fail",
    ),
    Option(
        "unlearn_save",
        "NAME",
        "save this run's rows as .unlearn/NAME.json, for comparison with later runs",
    ),
    Option("unlearn_compare", "NAME", "compare this run with a saved one, case by case"),
    Option(
        "unlearn_compare_fail",
        "CHANGE",
        "fail if a metric got worse since the saved run by more points than this, as in "
        "'leak.direct:+1%%' or 'passk.retained:-2%%'; the interval of the change is judged, or "
        "with 'leak.direct:+1%%:point' the change itself; repeatable",
        many=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Judging:
    """Gates, and everything else that decides the verdict but not what is measured.

    `source` says where the gates come from. `confidence` is that of each one-sided bound. An
    undecided gate forbids the release (`fail`), or is only shown (`warn`).
    """

    gates: tuple[Gate, ...]
    source: str
    profile: str | None
    confidence: float
    undecided: Undecided
    population: Population
    require_complete: bool
    curtail: bool
    save: str | None
    compare: str | None
    compare_fail: tuple[Change, ...]

    @property
    def requests(self) -> bool:
        """Return whether the people to forget are the whole population."""
        return self.population == "requests"


def read_judging(
    given: Callable[[str], Any], pyproject: Path | None = None, recorded: Judging | None = None
) -> Judging:
    """Return the checked options. `given(name)` is what the user gave, or None.

    Gates, `confidence` and `undecided` are those given, else those of the table in `pyproject`
    (None: no file), else those of an earlier run that is judged again (`recorded`), else the
    default. Raises GateError and BaselineError; messages begin with the flag, or with file and key.
    """
    from pytest_unlearn.gates.gate import GateError, gates_in_table, rules_in_table
    from pytest_unlearn.gates.saved_runs import check_name, parse_change

    table = gates_in_table(pyproject) if pyproject else ()  # checked even if it is not used
    rules = rules_in_table(pyproject) if pyproject else {}
    file = pyproject.name if pyproject else ""
    profile, save, compare = (
        given(f"unlearn_{name}") or None for name in ("profile", "save", "compare")
    )
    stop = given("unlearn_stop") or "off"
    if stop not in ("off", "curtail"):
        raise GateError(f"--unlearn-stop={stop}: write one of off, curtail")
    changes = given("unlearn_compare_fail") or ()
    if changes and compare is None:
        raise GateError("--unlearn-compare-fail: name a saved run with --unlearn-compare=NAME")
    default: Population = "requests" if given("unlearn_requests") else "sample"
    population: Population = given("unlearn_population") or (
        recorded.population if recorded else default
    )
    if population not in ("sample", "requests"):
        raise GateError(f"--unlearn-population={population}: write one of sample, requests")
    given_gates, retrained = given("unlearn_gate") or (), bool(given("unlearn_retrained"))
    source, gates = _gates(given_gates, file, table, profile, recorded, population, retrained)
    confidence, undecided = (
        _rule(name, given(f"unlearn_{name}"), file, rules) for name in ("confidence", "undecided")
    )
    with naming("--unlearn-compare-fail"):
        compare_fail = tuple(parse_change(text) for text in changes)
    return Judging(
        gates=gates,
        source=source,
        profile=profile,
        confidence=_confidence(*confidence, recorded.confidence if recorded else CONFIDENCE),
        undecided=_undecided(*undecided, recorded.undecided if recorded else "fail"),
        population=population,
        require_complete=bool(given("unlearn_require_complete"))
        or (recorded is not None and recorded.require_complete),
        curtail=stop == "curtail",
        save=check_name(save, "--unlearn-save") if save else None,
        compare=check_name(compare, "--unlearn-compare") if compare else None,
        compare_fail=compare_fail,
    )


def _gates(
    flags: Sequence[str],
    file: str,
    table: Sequence[str],
    profile: str | None,
    recorded: Judging | None,
    population: Population,
    retrained: bool,
) -> tuple[str, tuple[Gate, ...]]:
    """Return where the gates come from, and the gates."""
    from pytest_unlearn.gates.gate import choose_gates

    if recorded is not None and not (flags or table or profile):
        return "the earlier run", recorded.gates
    own = "--unlearn-gate" if flags else file if table else ""
    sources = [f"--unlearn-profile={profile}" if profile else "", own]
    source = " and ".join(filter(None, sources)) or "the defaults"
    with naming("--unlearn-gate"):
        return source, choose_gates(flags or table, profile, population, retrained)


def _rule(name: str, flag: Any, file: str, rules: dict[str, str]) -> tuple[str, Any]:
    """Return the beginning of a message about the value, and the value or None."""
    value = flag if flag not in (None, "") else rules.get(name)
    where = f"--unlearn-{name}" if flag not in (None, "") else f"{file}: {name}"
    return f"{where}={value}", value


def _confidence(where: str, value: Any, default: float) -> float:
    from pytest_unlearn.gates.gate import GateError, plain_number

    if value is None:
        return default
    text = str(value).strip()
    exact = plain_number(text.removesuffix("%"))
    number = float(exact or 0) / (100 if text.endswith("%") else 1)
    if not 0.5 < number < 1.0:
        raise GateError(f"{where}: write a share over 0.5 and under 1, as in 0.95 or 95%")
    return number


def _undecided(where: str, value: Any, default: Undecided) -> Undecided:
    from pytest_unlearn.gates.gate import GateError

    if value is None:
        return default
    if value not in ("fail", "warn"):
        raise GateError(f"{where}: write one of fail, warn")
    return cast("Undecided", value)
