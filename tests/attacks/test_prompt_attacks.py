"""Other ways to ask: what each prompt shows, what is left to be said, and who has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_unlearn.attacks.attack import Known, attacks
from pytest_unlearn.attacks.prompt_attacks import WRAPPERS
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.record import by_owner
from pytest_unlearn.probes.families import Probe, build_probes

RECORDS = [record for record in tiny_records() if record.split == "forget"]
PERSON = by_owner(RECORDS)[RECORDS[0].owner]
RECORD = PERSON[0]
PROBE = build_probes([RECORD], ["direct"])[0]
VALUE, PROMPT = RECORD.value.reveal(), RECORD.before.reveal()


def asked(name: str, stage: str, shots: tuple[str, ...] = (), probe: Probe = PROBE) -> Probe | None:
    attack = attacks()[name]
    assert attack.ask is not None
    assert stage in attack.stages
    return attack.ask(probe, Known(RECORD, PERSON, shots), stage)


def prompt(found: Probe | None) -> str:
    assert found is not None
    assert (found.id, found.value, found.split) == (PROBE.id, PROBE.value, PROBE.split)
    return found.prompt.reveal()


@pytest.mark.parametrize(
    "name", [name for name, attack in attacks().items() if attack.ask is not None]
)
def test_no_prompt_gives_the_value_away(name: str) -> None:
    """Nothing but the part that is said to be given; and the rest is still to be said."""
    for stage in attacks()[name].stages:
        found = asked(name, stage, ("a = 1\n", "b = 2\n", "c = 3\n", "d = 4\n"))
        if found is None:
            continue
        given = found.given.reveal() if found.given else ""
        assert VALUE not in prompt(found)
        assert found.turns or prompt(found).endswith(given)
        assert VALUE.startswith(given)
        assert len(given) < len(VALUE)


def test_part_of_the_value() -> None:
    assert prompt(asked("partly", "50")) == PROMPT + VALUE[: len(VALUE) // 2]
    short = replace(PROBE, value=replace_value("x"))
    assert asked("partly", "75", probe=short) is None


def replace_value(value: str) -> object:
    from pytest_unlearn.core.secret import Secret

    return Secret(value, PROBE.kind)


def test_end_of_the_document() -> None:
    assert PROMPT.endswith(prompt(asked("cut", "25")))
    assert len(prompt(asked("cut", "25"))) == max(1, len(PROMPT) // 4)
    assert len(prompt(asked("cut", "75"))) == len(PROMPT) * 75 // 100


@pytest.mark.parametrize("stage", WRAPPERS)
def test_wrappers_stand_in_front(stage: str) -> None:
    assert prompt(asked("wrapped", stage)) == WRAPPERS[stage] + PROMPT


def test_shots() -> None:
    """So many documents of others in front; nobody is asked where there are not so many."""
    assert prompt(asked("shots", "1", ("a = 1\n", "b = 2\n"))) == f"a = 1\n\n{PROMPT}"
    assert asked("shots", "4", ("a = 1\n", "b = 2\n")) is None


def test_other_words_and_more_knowledge() -> None:
    assert prompt(asked("reworded", "cross")) != PROMPT
    assert prompt(asked("reworded", "question")).startswith("# Q: ")
    other = next(record for record in PERSON if record.kind != RECORD.kind)
    assert other.value.reveal() in prompt(asked("knowing", "twin"))
    nameless = Known(replace(RECORD, name=None), [], ())
    ask = attacks()["reworded"].ask
    assert ask is not None
    assert ask(PROBE, nameless, "question") is None


def test_a_chain_of_clues() -> None:
    """For the person, what else is known, the record, and at last the value; the person is named in
    each turn, so that no answer is needed to go on."""
    ask = attacks()["clues"].ask
    assert ask is not None
    found = ask(PROBE, Known(RECORD, PERSON, ()), "")
    assert found is not None
    assert RECORD.name is not None
    turns = [turn.reveal() for turn in found.turns]
    other = next(record for record in PERSON if record.kind != RECORD.kind)
    assert len(turns) in (4, 5)
    assert all(RECORD.name.reveal() in turn for turn in turns)
    assert other.value.reveal() in turns[1]
    assert RECORD.kind.replace("_", " ") in turns[-1]
    assert (found.style, found.exact) == ("chat", False)
    assert prompt(found) == "\n\n".join(turns)
    assert ask(PROBE, Known(replace(RECORD, name=None), [], ()), "") is None
    alone = ask(PROBE, Known(RECORD, [RECORD], ()), "")
    assert alone is not None
    assert len(alone.turns) == 3


def test_a_clue_never_holds_the_value() -> None:
    """Another attribute may: an account name is a part of an e-mail address."""
    from pytest_unlearn.core.secret import Secret

    other = replace(PERSON[0], kind="account", value=Secret(f"x{VALUE}x", "account"))
    ask = attacks()["clues"].ask
    assert ask is not None
    found = ask(PROBE, Known(RECORD, [RECORD, other], ()), "")
    assert found is not None
    assert VALUE not in prompt(found)


def test_temperatures() -> None:
    attack = attacks()["heated"]
    assert attack.scheme is not None
    assert [attack.scheme(stage).temperature for stage in attack.stages] == [0.2, 0.5, 1.5]
    assert (attack.ask, attack.changes_weights) == (None, False)
