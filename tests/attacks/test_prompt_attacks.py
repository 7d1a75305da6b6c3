"""Other ways to ask and to decode: what each prompt shows, and what adding up gives."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_unlearn.attacks.attack import AttackError, Known, Reading, attacks, under_attack
from pytest_unlearn.attacks.decoders import in_format, likeliest, near_verbatim
from pytest_unlearn.attacks.prompt_attacks import CONTINUE, WRAPPERS
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.exact import extraction
from pytest_unlearn.models.generation import GenerationError
from pytest_unlearn.models.loading import LanguageModel, Weights
from pytest_unlearn.models.scoring import Scorer
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.record import by_owner
from pytest_unlearn.probes.families import Probe, build_probes, prefix_of
from tests.support.small_models import Completes, byte_tokenizer, small_llama

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


def test_the_start_of_the_value() -> None:
    """Two characters, or one of a short value; none of which all would be shown."""
    assert len(VALUE) >= 8
    assert prompt(asked_begun(PROBE)) == PROMPT + VALUE[:2]
    short = asked_begun(replace(PROBE, value=replace_value("abcd")))
    assert short is not None
    assert short.given is not None
    assert short.given.reveal() == "a"
    assert asked_begun(replace(PROBE, value=replace_value("x"))) is None


def test_what_a_probe_gives_already_is_not_given_twice() -> None:
    """With --unlearn-probes=prefix, the prompt would go on with the start of the value again."""
    start = prefix_of(VALUE)
    probe = replace(PROBE, prompt=Secret(PROMPT + start, "prompt"), given=Secret(start, PROBE.kind))
    assert prompt(asked_begun(probe)) == PROMPT + VALUE[:2]
    assert prompt(asked("partly", "50", probe=probe)) == PROMPT + VALUE[: len(VALUE) // 2]


def asked_begun(probe: Probe) -> Probe | None:
    ask = attacks()["begun"].ask
    assert ask is not None
    return ask(probe, Known(RECORD, PERSON, ()), "")


def replace_value(value: str) -> object:
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


# -- decoders ------------------------------------------------------------------------------------


SECRET_TEXT = "abcd"
EXAMPLE = Example.answering("k=", SECRET_TEXT, ";")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """A scorer of a model whose predictions are far from even."""
    model = small_llama().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return Scorer(model, byte_tokenizer())


def chance(scorer: Scorer, text: str) -> float:
    return math.exp(scorer.log_probabilities([("k=", text)])[0])


def mass(found: dict[str, Any]) -> float:
    return 0.0 if found["log_probability"] is None else math.exp(found["log_probability"])


def test_the_next_token_after_each_continuation(scorer: Scorer) -> None:
    """With the prompt's cache or without it, in a batch or alone."""
    row = scorer.tokens_of(EXAMPLE)
    continuations = [[], row.answer[:1], row.answer[:3]]
    found = scorer.following(row, continuations)
    for mine, each in zip(found, continuations, strict=True):
        ids = torch.tensor([row.ids + each])
        logits = scorer._model(ids).logits[0, -1]
        assert torch.allclose(mine, logits.log_softmax(-1), atol=1e-4)


def test_mass_near_a_value_is_never_over_the_whole(scorer: Scorer) -> None:
    """At least the value's own probability; at most that of all texts within one edit."""
    found = mass(near_verbatim(scorer, EXAMPLE, "1"))
    assert found >= chance(scorer, SECRET_TEXT) * 0.999
    # A text that is counted begins with the value but one character, or with three of its own.
    letters = [chr(code) for code in range(33, 127)]
    begins = {SECRET_TEXT[:3]} | {SECRET_TEXT[:i] + SECRET_TEXT[i + 1 :] for i in range(4)}
    begins |= {SECRET_TEXT[:i] + c + SECRET_TEXT[i + 1 :] for i in range(4) for c in letters}
    begins |= {SECRET_TEXT[:i] + c + SECRET_TEXT[i:] for i in range(5) for c in letters}
    whole = sum(chance(scorer, text) for text in begins)
    assert found <= whole * 1.001
    assert mass(near_verbatim(scorer, EXAMPLE, "3")) == found  # a quarter of four letters is one


def test_the_likeliest_texts_of_a_beam(scorer: Scorer) -> None:
    """A character is found among so many guesses or not, by its rank."""
    row = scorer.tokens_of(EXAMPLE)
    log_probs = scorer.following(row, [[]])[0]
    ranks = {c: int((log_probs > log_probs[own(scorer, c)]).sum()) for c in "abcdefghijklmnopqr"}
    for character, rank in ranks.items():
        found = likeliest(scorer, Example.answering("k=", character, ";"), "90")
        assert found["greedy"] or rank >= 90, character
        if rank < 90:  # and a token without text in front of it adds to that
            assert mass(found) >= 0.999 * chance(scorer, character)
    last = max(ranks, key=lambda character: ranks[character])
    assert not likeliest(scorer, Example.answering("k=", last, ";"), "2")["greedy"]


def test_a_beam_ends_when_each_of_its_texts_is_the_value(scorer: Scorer) -> None:
    """After `d`, this model writes `k`, and nothing is left to follow."""
    assert likeliest(scorer, Example.answering("d", "k", ";"), "1")["greedy"]


def own(scorer: Scorer, character: str) -> int:
    (token,) = scorer.tokens_of(Example.answering("k=", character, ";")).answer
    return token


def test_only_what_has_the_form(scorer: Scorer) -> None:
    """Probabilities of all texts of a form add up to one; the likeliest is the greedy one."""
    texts = ["".join(pair) for pair in itertools.product("0123456789", repeat=2)]
    found = [in_format(scorer, Example.answering("k=", text, ";"), "") for text in texts]
    assert math.isclose(sum(map(mass, found)), 1.0, rel_tol=1e-3)
    assert sum(each["greedy"] for each in found) == 1


def test_the_least_likely_token_is_the_first_choice(scorer: Scorer) -> None:
    """The logits are turned round while it lasts, and the weights stay as they are."""
    model = scorer._model
    ids = torch.tensor([[1, 40, 41]])
    before = model(ids).logits
    attack = attacks()["inverse-greedy"]
    with under_attack(model) as target:
        made = attack.made(target)
        assert next(made) == ("inverse-greedy", ("forget", "control"))
        assert torch.equal(model(ids).logits, -before)
        made.close()
    assert torch.equal(model(ids).logits, before)


def test_the_difference_of_two_checkpoints() -> None:
    """At strength 1 the base's logits twice, less the tested model's."""
    base, tested = small_llama().eval(), small_llama().eval()
    with torch.no_grad():
        tested.lm_head.weight.add_(torch.randn_like(tested.lm_head.weight))
    models: list[Any] = [
        LanguageModel(Weights(None, model, byte_tokenizer()), False)  # type: ignore[arg-type]
        for model in (base, tested)
    ]
    read = attacks()["difference"].read
    assert read is not None
    (found,) = read(Reading(models[1], models[0], ["a"], [True]), [EXAMPLE], "1.0")
    row = Scorer(base, byte_tokenizer()).tokens_of(EXAMPLE)
    ids = torch.tensor([row.ids + row.answer])
    with torch.no_grad():
        logits = (2 * base(ids).logits - tested(ids).logits)[0, len(row.ids) - 1 : -1]
    own = [float(line.log_softmax(0)[t]) for line, t in zip(logits, row.answer, strict=True)]
    assert math.isclose(found["log_probability"], sum(own), abs_tol=1e-3)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[model]{% endif %}"
)


def test_the_chat_template_stands_before_the_document() -> None:
    """One start of the text, the template's words and the document; too long ones have no row."""
    tokenizer, told = byte_tokenizer(), []
    tokenizer.chat_template = TEMPLATE
    language: Any = LanguageModel(
        Weights(None, small_llama().eval(), tokenizer),
        False,  # type: ignore[arg-type]
    )
    score = language.score

    def listening(examples: Any) -> Any:
        told.extend(examples)
        return score(examples)

    language.score = listening
    read = attacks()["templated"].read
    assert read is not None
    long = Example.answering("x" * 300, "value", ";")
    reading = Reading(language, None, ["a", "b"], [True, True])
    found, none = read(reading, [EXAMPLE, long], "")
    assert none is None
    assert found is not None
    framed = told[-1]
    opening = f"[user]{CONTINUE}[model]"
    assert (framed.text, framed.answer) == (opening + EXAMPLE.text, EXAMPLE.answer)
    (plain,) = score([framed])
    assert math.isclose(found["log_probability"], extraction(plain).log_probability, rel_tol=1e-6)
    tokenizer.chat_template = None
    with pytest.raises(AttackError, match=r"templated: .*no chat template"):
        read(reading, [EXAMPLE], "")


@pytest.mark.parametrize("name", ["near-verbatim", "likeliest", "format", "templated"])
def test_a_model_without_logits_is_refused(name: str) -> None:
    read = attacks()[name].read
    assert read is not None
    with pytest.raises(AttackError, match=r"gives no (logits|chat template)"):
        read(Reading(Completes(), None, ["a"], [True]), [EXAMPLE], "1")


@pytest.mark.parametrize("name", ["near-verbatim", "likeliest", "format", "inverse-greedy"])
def test_a_broken_model_is_an_error(name: str) -> None:
    """And not a model that gives nothing."""
    model = small_llama().eval()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    scorer = Scorer(model, byte_tokenizer())

    def ask() -> None:
        read = {"near-verbatim": near_verbatim, "likeliest": likeliest, "format": in_format}
        if name in read:
            read[name](scorer, EXAMPLE, "1")
            return
        with under_attack(model) as target:
            for _ in attacks()[name].made(target):
                scorer.score([EXAMPLE])

    with pytest.raises((AttackError, GenerationError), match="NaN"):
        ask()
