"""The registry: names, each method's own options, and methods of other packages."""

from __future__ import annotations

import math
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from pytest_unlearn.core import extensions
from pytest_unlearn.unlearning.method import MethodError, option_names
from pytest_unlearn.unlearning.methods import GROUP, METHODS, NONE, parse_method


def test_every_method_of_the_literature_is_there() -> None:
    """The list of the documentation, family by family."""
    names = (
        "ga ga+gd ga+kl wga satimp pdu codeeraser npo npo+gd npo+kl simnpo dpo idkdpo altpo undial "
        "prod ce-u rmu anchored task-vector"
    )
    assert list(METHODS) == names.split()


def test_names_are_whole_names() -> None:
    """No dispatch by part of a name, as in MUSE: SimNPO is no NPO and asks for no reference."""
    assert METHODS["npo"].base_sums
    assert not METHODS["simnpo"].base_sums
    for wrong in ("np", "NPO", "npo+", "gd", "", "npo +gd"):
        with pytest.raises(MethodError, match="is not a method; write one of ga, ga"):
            parse_method(wrong)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("npo:beta=0.2,lr=1e-5", "beta", 0.2),
        ("ga+gd:forget_bound=inf", "forget_bound", math.inf),
        ("ga+kl:kl_top=32", "kl_top", 32),
        ("rmu: depth = 0.5 , steering=5", "depth", 0.5),
        ("altpo:alternates=3", "alternates", 3),
        ("npo+gd:spans=document", "spans", "document"),
    ],
)
def test_own_options(text: str, name: str, value: object) -> None:
    """Each method has options of its own beside those of all."""
    choice = parse_method(text)
    assert getattr(choice.options, name) == value
    assert choice.options != choice.method.defaults  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ga:beta=0.1", "'beta=0.1' is not an option of ga; write name=value with lr, steps"),
        ("ga:keep=0.9", "'keep=0.9' is not an option of ga"),
        ("npo:forget_bound=1", "is not an option of npo"),
        ("npo+gd:kl_top=3", "is not an option of npo+gd"),
        ("npo:beta=0", "beta=0.0 is out of range; write a number above 0"),
        ("npo:beta=nan", "beta=nan is out of range"),
        ("rmu:depth=1.5", "depth=1.5 is out of range; write a number above 0 and at most 1"),
        ("altpo:alternates=0", "write a number at least 1 and at most 100"),
        ("altpo:alternates=x", "alternates=x: write int"),
        ("npo:beta=1,beta=2", "beta is given twice"),
        ("ga:spans=value", "spans=value is out of range; write values or document"),
        ("ga:accumulate=33", "accumulate=33 is out of range; write a whole number from 1 to batch"),
        ("ga:steps=0", "steps=0 is out of range; write a whole number of at least 1"),
        (
            "wga:least_scale=0",
            "least_scale=0.0 is out of range; write a share above 0",
        ),
        ("wga:least_scale=0.5,tune=full", "less than 1 with tune=lora only"),
        ("wga:precondition=-1", "precondition=-1.0 is out of range; write a number of at least 0"),
        ("wga:precondition=nan", "precondition"),
        ("wga:precondition=0.1,tune=full", "above 0 with tune=lora only"),
        ("ga:precondition=0.1", "precondition"),
        ("wga:prioritized=1.5", "prioritized=1.5 is out of range; write a share from 0 to 1"),
        ("ga:prioritized=0.5", "'prioritized=0.5' is not an option of ga"),
        ("anchored:substitutes=-1", "write a number at least 0"),
        ("wga:substitutes=5", "'substitutes=5' is not an option of wga"),
        ("wga:batch=64,accumulate=33", "each part needs a retained row, and a step has 32"),
    ],
)
def test_options_that_a_method_does_not_have(text: str, message: str) -> None:
    """Refused, with what it has: a silent option would be another experiment than was asked for."""
    with pytest.raises(MethodError) as caught:
        parse_method(text)
    assert message in str(caught.value)


def test_defaults_are_in_range_and_complete() -> None:
    """Every method takes the common options, and names each of its own once."""
    for method in METHODS.values():
        names = option_names(method.defaults, method.uses_retain)
        assert names[:2] == ["lr", "steps"]
        assert len(set(names)) == len(names)
        assert ("retain_batch" in names) is method.uses_retain
    assert parse_method(NONE).alternates == (None, 1)
    assert parse_method("altpo").alternates == ("plausible", 5)
    assert parse_method("idkdpo").alternates == ("placeholder", 1)


# -- entry points --------------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from pytest_unlearn.unlearning.method import Method
from pytest_unlearn.unlearning.method import UnlearnOptions, option

@dataclass(frozen=True, slots=True)
class Options(UnlearnOptions):
    pull: float = option(1.0, above=0)

def loss(step, options):
    return options.pull * step.predicted(step.forget).nll().mean()

METHOD = Method("mine", loss, Options(lr=1e-3, steps=5), uses_retain=False)
NO_METHOD = 3
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path whose metadata offer methods, good and bad."""
    (tmp_path / "unlearn_mine.py").write_text(PLUGIN)
    info = tmp_path / "unlearn_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unlearn-mine\nVersion: 1.0\n")
    lines = {
        "mine": "unlearn_mine:METHOD",
        "other": "unlearn_mine:METHOD",
        "number": "unlearn_mine:NO_METHOD",
        "absent": "unlearn_nowhere:METHOD",
        "npo": "unlearn_mine:METHOD",
    }
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{text}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "unlearn_mine", raising=False)


@pytest.mark.usefixtures("offered")
def test_a_method_of_another_package() -> None:
    """Found by its name, with its own options; nothing is loaded before it is asked for."""
    assert parse_method("ga").method is METHODS["ga"]
    assert "unlearn_mine" not in sys.modules
    choice = parse_method("mine:pull=2")
    assert choice.name == "mine"
    assert choice.options.pull == 2.0  # type: ignore[union-attr]
    with pytest.raises(MethodError, match=r"pull=0\.0 is out of range"):
        parse_method("mine:pull=0")
    with pytest.raises(MethodError, match=r"absent, mine, number, other, retrain or none"):
        parse_method("nobody")


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "(unlearn_nowhere:METHOD of unlearn-mine): it cannot be loaded (ModuleNotFound"),
        ("number", "must name a pytest_unlearn.unlearning.method.Method whose name is 'number'"),
        ("other", "(unlearn_mine:METHOD of unlearn-mine): the entry point must name"),
        ("npo", "'npo' is offered by pytest-unlearn and by unlearn-mine; uninstall one"),
    ],
)
def test_a_faulty_one_is_an_error_when_asked_for(name: str, message: str) -> None:
    """And only then: the others go on working."""
    assert parse_method("simnpo").method is METHODS["simnpo"]
    with pytest.raises(MethodError) as caught:
        parse_method(name)
    assert message in str(caught.value)


def test_two_packages_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one would be meant?"""
    points = [EntryPoint("twice", f"unlearn_{n}:METHOD", GROUP) for n in "ab"]
    monkeypatch.setattr(extensions, "entry_points", lambda group: points)
    with pytest.raises(MethodError, match="offered by unlearn_a:METHOD and by unlearn_b:METHOD"):
        parse_method("twice")


def test_nothing_else_is_offered_here() -> None:
    """These tests would otherwise look at somebody's plugin."""
    assert not entry_points(group=GROUP)
