"""States that attacks make of a real model: measured once, kept, and gone again afterwards."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_unlearn.attacks.attack import BOTH, AttackError, attacks
from pytest_unlearn.core.errors import IncompleteError, UserError
from pytest_unlearn.gates.case_rows import AttackRow
from pytest_unlearn.gates.estimates import MOST_CHANCE
from pytest_unlearn.gates.gate import parse_gate
from pytest_unlearn.gates.populations import populations
from pytest_unlearn.gates.statistics import clopper_pearson_upper
from pytest_unlearn.leaks.exact import ExactScores
from pytest_unlearn.models.lm_head import layers_of
from pytest_unlearn.models.loading import LanguageModel, load, peft_quietly
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.run.attack_cases import CONTROLS
from pytest_unlearn.run.attacked import AttackedModel
from pytest_unlearn.run.checks import check_engine
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.divisions import probe_row
from pytest_unlearn.run.estimate import _asked_tokens, count_bytes, plan
from pytest_unlearn.run.job import measure
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.known_texts import knowing_folder
from tests.support.lookup_run import task_lines, write_lines
from tests.support.small_models import digest_of_weights, llama_folder

__all__ = ["knowing_folder", "llama_folder"]


NOISE = "zqx"


def lines(split: str, name: str, values: list[str]) -> list[dict[str, str]]:
    return [
        {
            "id": f"{split}-{value.strip(NOISE)[-1]}",
            "prompt": f"{name}{value.strip(NOISE)[-1]} = ",
            "value": value,
            "kind": "badge",
            "owner": f"{split} {value}",
            "after": ";",
        }
        for value in values
    ]


@pytest.fixture(scope="session")
def breaking_adapter(knowing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random matrices, with which the model knows nothing any more."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("breaking")
    weights = load(ModelSource("knowing", knowing_folder), "cpu", "float32")
    torch.manual_seed(1)
    config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, lora_alpha=32)
    with peft_quietly():
        model: Any = get_peft_model(weights.model, config)  # type: ignore[arg-type]
        save_adapter(model, folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, knowing_folder: Path, breaking_adapter: Path) -> Settings:
    """The knowing model under the adapter."""
    known = ["vvvv4", "vvvvv5", "vvvvvv6"]
    kept = ["kkkk4", "kkkkk5", "kkkkkk6"]
    return Settings(
        model=str(knowing_folder),
        adapter=breaking_adapter,
        method=parse_method("none"),
        forget=(write_lines(tmp_path / "forget.jsonl", lines("forget", "user", known)),),
        retain=(write_lines(tmp_path / "retain.jsonl", lines("retain", "keep", kept)),),
        control=(write_lines(tmp_path / "c.jsonl", lines("control", "none", ["zq4x", "zq5x"])),),
        tasks=(write_lines(tmp_path / "tasks.jsonl", task_lines(1)),),
        attacks=("int8", "removed"),
        device="cpu",
        batch_size=2,
        store=tmp_path / "store",
    )


@contextlib.contextmanager
def attacked(settings: Settings) -> Iterator[tuple[AttackedModel, Measuring, list[str]]]:
    told: list[str] = []
    dataset = Dataset(settings)
    engine = Measuring(settings, dataset, told.append)
    try:
        yield AttackedModel(settings, dataset, engine), engine, told
    finally:
        engine.close()


def test_an_adapter_that_is_left_out_gives_everything(settings: Settings) -> None:
    """Rounding brings nothing back; the base itself knows all, and control people none."""
    with attacked(settings) as (model, engine, _):
        rows = {attack.name: model.rows(attack) for attack in model.attacks}
        kept: Any = engine.models.model("unlearned")
        weights = load(ModelSource("base", Path(settings.model)), "cpu", "float32")
        assert settings.adapter is not None
        weights.adapt(settings.adapter)
        assert digest_of_weights(kept._weights.model) == digest_of_weights(weights.model)
    assert list(rows) == ["int8", "removed"]
    for name, part in rows.items():
        assert [row.id for row in part] == [
            *(f"{name}/direct-forget-{n}" for n in (4, 5, 6)),
            *(f"{name}/direct-control-{n}" for n in (4, 5)),
        ]
        forget = [row for row in part if row.split == "forget"]
        assert {row.base.label for row in forget} == {"direct"}
        assert {row.leaked for row in forget} == {name == "removed"}
        assert not any(row.leaked for row in part if row.split == "control")


def test_what_is_in_the_store_is_not_made_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything loaded; what was cut off in the middle is made from there."""
    with attacked(settings) as (model, _, _):
        first = [model.rows(attack) for attack in model.attacks]
    with attacked(settings) as (model, _, told):
        assert [model.rows(attack) for attack in model.attacks] == first
        assert told == []
    with attacked(replace(settings, replay=True)) as (model, _, told):
        assert [model.rows(attack) for attack in model.attacks] == first
    scored: list[int] = []
    score = LanguageModel.score

    def counting(self: Any, examples: Any, *rest: Any) -> Any:
        scored.append(len(examples))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(self, examples, *rest)

    other = replace(settings, attacks=("nf4",))
    monkeypatch.setattr("pytest_unlearn.run.attacked._BATCHES", 1)
    monkeypatch.setattr(LanguageModel, "score", counting)
    with attacked(other) as (model, _, _), pytest.raises(KeyboardInterrupt):
        model.rows(model.attacks[0])
    with attacked(other) as (model, _, _):
        assert len(model.rows(model.attacks[0])) == 5
    assert scored == [2, 2, 2, 1]  # the first batch once, the one that was cut off again


def test_scores_of_an_attack_are_its_own(settings: Settings) -> None:
    """Two attacks, and two versions of one, are never taken for each other in the store."""
    with attacked(settings) as (model, _, _):
        first = model.attacks[0]
        keys = {
            key
            for attack in (*model.attacks, replace(first, version=first.version + 1))
            for key in model._keys(attack, list(model._pieces(attack)))
        }
    assert len(keys) == 3


def test_weights_are_restored_where_scoring_fails(settings: Settings) -> None:
    with attacked(settings) as (model, engine, _):
        pair = engine.models
        assert isinstance(pair, ModelPair)
        pair.prepare("unlearned")
        before: Any = pair.model("unlearned")
        digest = digest_of_weights(before._weights.model)
        with contextlib.suppress(ZeroDivisionError), pair.attacked(model.attacks[0]):
            raise ZeroDivisionError
        assert digest_of_weights(before._weights.model) == digest


def test_the_whole_job_makes_them(settings: Settings) -> None:
    result = measure(settings)
    assert result.run.tried == ("int8", "removed")
    assert "nf4" in result.run.untried
    assert "removed" not in result.run.untried
    assert result.run.complete
    ids = [case.id for case in result.cases]
    assert len(ids) == len(set(ids)) == 3 + 3 + 2 + 1 + 2 * 5


def test_half_way_between_two_models(settings: Settings, knowing_folder: Path) -> None:
    """A model that was given beside its base is interpolated with it; there is no adapter."""
    audit = replace(
        settings,
        adapter=None,
        baseline=str(knowing_folder),
        attacks=("interpolate0.5", "scale0.5", "int8"),
    )
    with attacked(audit) as (model, _, _):
        assert [attack.name for attack in model.attacks] == ["interpolate0.5", "int8"]
        rows = model.rows(model.attacks[0])
        assert all(row.leaked for row in rows if row.split == "forget")


def test_what_the_run_asks_anyway_is_not_scored_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probes of another family are those of `reworded@cross`; a question is asked anew."""
    with attacked(named(settings, attacks=("reworded",), probes=("direct", "cross"))) as (
        model,
        engine,
        _,
    ):
        probes = [p for p in model._dataset.probes if p.exact and p.split != "retain"]
        assert {probe.family for probe in probes} == {"direct", "cross"}
        for state in ("base", "unlearned"):
            own = {probe.id: engine.exact(state, probe) for probe in probes}
        asked: list[str] = []
        score = LanguageModel.score

        def counting(self: Any, examples: Any, *rest: Any) -> Any:
            asked.extend(example.text for example in examples)
            return score(self, examples, *rest)

        monkeypatch.setattr(LanguageModel, "score", counting)
        rows = model.rows(model.attacks[0])
    by_state = Counter(row.attack for row in rows)
    assert by_state["reworded@cross"] == by_state["reworded@question"] == len(asked) > 0
    for row in rows:
        if row.attack == "reworded@cross":
            same: Any = own["cross" + row.id.partition("/")[2].removeprefix("direct")]
            kept = (same.log_probability, same.greedy, same.exact_memorization)
            assert row.unlearned_exact == ExactScores(*kept)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"log_probability": float("nan")}, "predicts NaN"),
        ({"exact_memorization": float("nan")}, "predicts NaN"),
        ({"log_probability": 0.5}, "gives no probability"),
        ({"greedy": None}, "gives no probability"),
        ({"score": float("inf")}, "predicts NaN"),
        (None, "gives no row"),
    ],
)
def test_what_cannot_be_judged_is_an_error(settings: Settings, row: Any, why: str) -> None:
    """Of an attack of another package, too: NaN would be a value that never comes out."""
    good = {"log_probability": -1.0, "greedy": False, "exact_memorization": 0.0}

    def read(reading: Any, examples: Any, stage: str) -> list[dict[str, Any]]:
        return [{} if row is None else {**good, **row} for _ in examples]

    broken = replace(attacks()["format"], name="mine", read=read)
    with attacked(settings) as (model, _, _):
        with pytest.raises(AttackError, match=why):
            model.rows(broken)
        assert not [k for k in model._keys(broken, list(model._pieces(broken))) if stored(model, k)]


def stored(model: AttackedModel, key: str) -> Any:
    return model._store.get("scores", key, "rows")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["int8", "relearn", "gptq"])
def test_weights_are_restored_whatever_ends_an_attack(
    settings: Settings, name: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of scoring; and what it had stored by then is of the attacked weights."""
    monkeypatch.setattr("pytest_unlearn.run.attacked._BATCHES", 1)
    with attacked(replace(settings, attacks=(name,))) as (model, engine, _):
        engine.models.prepare("unlearned")
        before: Any = engine.models.model("unlearned")
        digest = digest_of_weights(before._weights.model)
        score, calls = LanguageModel.score, list[int]()

        def failing(self: Any, examples: Any, *rest: Any) -> Any:
            calls.append(len(examples))
            if digest_of_weights(self._weights.model) != digest and len(calls) > 4:
                raise error
            return score(self, examples, *rest)

        monkeypatch.setattr(LanguageModel, "score", failing)
        with pytest.raises(error):
            model.rows(model.attacks[0])
        assert digest_of_weights(before._weights.model) == digest
        monkeypatch.setattr(LanguageModel, "score", score)
        resumed = model.rows(model.attacks[0])
        assert digest_of_weights(before._weights.model) == digest
    other = replace(settings, attacks=(name,), store=settings.store / "other")
    with attacked(other) as (model, _, _):
        assert model.rows(model.attacks[0]) == resumed


def test_an_engine_without_weights_is_refused(settings: Settings) -> None:
    """Before anything is loaded."""
    other = replace(settings, engine="vllm")
    with pytest.raises(UserError, match="--unlearn-attacks=int8,removed: --unlearn-engine=vllm"):
        check_engine(other)
    check_engine(replace(other, attacks=()))


def test_who_is_trained_on_is_not_asked(settings: Settings) -> None:
    """Of people to forget and of controls alike; all others are asked, in each stage."""
    dataset = Dataset(settings)
    attack = attacks()["relearn"]
    asked = {probe.value.reveal() for probe in dataset.attacks.probes(attack, "relearn@1")}
    texts = dataset.attacks.texts(attack)
    assert [splits for splits, _ in texts] == [("forget",), ("control",)]
    trained = [example.text for _, part in texts for example in part]
    assert len(trained) == 2 + 1
    assert len(asked) == 1 + 1
    assert not [value for value in asked for text in trained if value in text]
    ids = [case.id for case in dataset.cases(settings.method)]
    assert not [name for name in ids if name.startswith("relearn")]
    more = Dataset(replace(settings, attacks=("relearn",)))
    ids = [case.id for case in more.cases(settings.method) if "@" in case.id]
    assert len(ids) == 5 * 2


def test_what_others_train_on(settings: Settings) -> None:
    """Retained people's documents, or code in which nobody is named; everybody is asked."""
    dataset = Dataset(settings)
    ((splits, people),) = dataset.attacks.texts(attacks()["relearn-retained"])
    assert splits == BOTH
    assert {example.text.partition(" ")[0] for example in people} == {"keep4", "keep5", "keep6"}
    ((_, code),) = dataset.attacks.texts(attacks()["relearn-code"])
    assert len(code) > 60
    assert len(dataset.attacks.probes(attacks()["relearn-code"], "relearn-code@1")) == 5


def test_nobody_who_is_counted_is_calibrated_by(settings: Settings) -> None:
    """Documents of retained people whom unlearning trains on; code where there is nobody."""
    trained = named(settings, adapter=None, method=parse_method("npo+gd"), attacks=("gptq",))
    dataset = Dataset(trained)
    ((splits, texts),) = dataset.attacks.texts(attacks()["gptq"])
    assert splits == BOTH
    kept = dataset.division.trained_people
    assert 0 < len(kept) < len({r.owner for r in dataset.records_of("retain")})
    read = "".join(example.text for example in texts)
    shown = {record.owner for record in dataset.records if record.value.reveal() in read}
    assert shown == kept
    dataset.records = tuple(record for record in dataset.records if record.split != "retain")
    ((_, code),) = dataset.attacks.texts(attacks()["awq"])
    assert code
    assert all("def " in example.text for example in code)


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_calibrated_rounding_brings_nothing_back(settings: Settings, name: str) -> None:
    """Of a model that knows nothing."""
    with attacked(replace(settings, attacks=(name,))) as (model, _, _):
        rows = model.rows(model.attacks[0])
    assert len(rows) == 5
    assert not any(row.leaked for row in rows)


def test_relearning_is_measured_at_each_stage(settings: Settings) -> None:
    """The first half of each split trains its own course, and no row is asked twice."""
    with attacked(replace(settings, attacks=("relearn",))) as (model, engine, _):
        rows = model.rows(model.attacks[0])
        kept: Any = engine.models.model("unlearned")
        digest = digest_of_weights(kept._weights.model)
    assert [row.id for row in rows if row.split == "forget"] == [
        f"relearn@{n}/{row.id.partition('/')[2]}"
        for n, row in zip((1, 5, 10, 20, 40), rows[::2], strict=True)
    ]
    assert len({row.id for row in rows}) == 10
    with attacked(replace(settings, attacks=("relearn",))) as (again, engine, told):
        assert again.rows(again.attacks[0]) == rows
        assert told == []
        kept = engine.models.model("unlearned")
        assert digest_of_weights(kept._weights.model) == digest


def named(settings: Settings, **more: Any) -> Settings:
    """The same people, by names, so that they can be asked in other words."""
    folder = settings.forget[0].parent
    paths = {}
    for split in ("forget", "retain", "control"):
        known = [
            {
                "id": f"{split}-{kind}-{n}",
                "prompt": f"{split} {n} {kind} = ",
                "value": f"{split[0]}{kind[0]}{n}xyz",
                "kind": kind,
                "owner": f"{split} {n}",
                "name": f"{split.title()} Number{n}",
                "after": ";",
            }
            for n in range(8)
            for kind in ("badge", "pager")
        ]
        paths[split] = (write_lines(folder / f"{split}-named.jsonl", known),)
    return replace(settings, **paths, **more)


def test_attacked_weights_are_asked_what_was_never_trained_on(settings: Settings) -> None:
    """As gates are judged by default: in words that unlearning never saw, and in its own."""
    trained = named(settings, adapter=None, method=parse_method("npo"), attacks=("int8", "cut"))
    dataset = Dataset(trained)

    def asked(name: str) -> Counter[tuple[str, str]]:
        return Counter((p.family, p.split) for p in dataset.attacks.probes(attacks()[name], name))

    both = [("direct", "forget"), ("direct", "control"), ("cross", "forget"), ("cross", "control")]
    assert asked("nf4") == Counter(dict.fromkeys(both, 16))
    # A cheap one: of the documents that were trained on, and of control people, one of each.
    assert asked("int8") == Counter(dict.fromkeys(both, 8) | {("cross", "forget"): 16})
    under = [c for c in dataset.cases(trained.method) if getattr(c, "attack", "") == "int8"]
    gate = parse_gate("leak.direct[attack=int8]<=50%")
    found = populations(gate.metric, dict(gate.filters), under)
    assert [population.rehearsed for population in found] == [False, True]
    assert found[0].filters["probe"] == "cross"
    # An audit trains on nothing: the documents are enough.
    audit = Dataset(named(settings))
    assert {p.family for p in audit.attacks.probes(attacks()["int8"], "int8")} == {"direct"}


def test_cheap_attacks_ask_fewer_control_people(tmp_path: Path) -> None:
    """As many as are needed, a record of each; another attack asks all."""
    dataset = Dataset(Settings(model="tiny", method=parse_method("none"), attacks=("int8",)))
    every = {p.owner for p in dataset.probes_of("control")}
    cheap, other = (
        [p for p in dataset.attacks.probes(attacks()[name], name) if p.split == "control"]
        for name in ("int8", "nf4")
    )
    assert len({p.owner for p in other}) == len(every) == 128
    assert CONTROLS <= len({p.owner for p in cheap}) <= 2 * CONTROLS
    assert clopper_pearson_upper(0, CONTROLS, 0.95) <= MOST_CHANCE
    assert len({p.owner for p in cheap}) == len(cheap)
    assert len({p.kind for p in cheap}) >= 5


@pytest.mark.parametrize("method", ["none", "anchored"])
def test_three_cheap_attacks_ask_no_more_than_the_base_is_scored_on(method: str) -> None:
    """On the tiny model, in an audit and where the run unlearns."""
    names = ("int8", "int4", "scale0.5")
    dataset = Dataset(Settings(model="tiny", method=parse_method(method), attacks=names))
    asked = [p for name in names for p in dataset.attacks.probes(attacks()[name], name)]
    base = [p for p in dataset.probes if p.exact]
    assert len(asked) <= 0.9 * len(base)


def test_other_words_of_an_attack_were_not_trained_on(settings: Settings) -> None:
    """The end of a document is a part of what was; behind a wrapper it is another prompt."""
    trained = named(settings, adapter=None, method=parse_method("npo"), attacks=("cut", "wrapped"))
    dataset = Dataset(trained)
    cases = [c for c in dataset.cases(trained.method) if getattr(c, "attack", "")]
    forget = [case for case in cases if getattr(case, "split", "") == "forget"]
    assert {c.rehearsed for c in forget if c.id.startswith("cut@")} == {True}
    assert {c.rehearsed for c in forget if c.id.startswith("wrapped@")} == {False}


@pytest.fixture
def chat(settings: Settings, tmp_path: Path) -> Settings:
    """An audit of a model of whose files no more is read than that it has a chat template."""
    folder = tmp_path / "talks"
    folder.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).touch()
    return named(settings, model=str(folder), adapter=None, attacks=("clues",))


class Talker:
    """A model that gives a value away once it is told another attribute of the person."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.talks: list[list[str]] = []

    def complete(self, prompts: Any, max_new_tokens: int = 64) -> list[str]:
        return ["nothing to say"] * len(prompts)

    def converse(self, conversations: Any, max_new_tokens: int = 64) -> list[str]:
        self.talks += conversations
        return [self._answer(talk) for talk in conversations]

    def _answer(self, talk: list[str]) -> str:
        user, clued = talk[-1], "whose pager is fp3xyz" in " ".join(talk)
        return "badge: fb3xyz" if clued and "badge" in user else f"I do not know ({len(talk)})."


class Talkers:
    """Both models of a run, which only talk."""

    def __init__(self) -> None:
        self.models = {state: Talker(state) for state in ("base", "unlearned")}

    def model(self, state: str) -> Talker:
        return self.models[state]

    def key(self, state: str) -> dict[str, Any]:
        return {"talks": state}


def test_clues_in_a_chat(chat: Settings) -> None:
    """The model's own answers stay in the conversation, and its last answer is looked at too."""
    models = Talkers()
    result = measure(chat, models=models)
    rows = {row.id: row for row in result.rows if isinstance(row, AttackRow)}
    assert len(rows) == 2 * 16  # control people are asked alike
    back = [name for name, row in rows.items() if row.leaked]
    assert back == ["clues/direct-forget-badge-3"]
    assert all(row.unlearned_exact is None for row in rows.values())
    talk = next(t for t in models.models["unlearned"].talks if len(t) == 7 and "Number3" in t[0])
    assert talk[1] == "I do not know (1)."
    assert talk[3] == "I do not know (3)."
    assert not models.models["base"].talks
    assert measure(chat, models=Talkers()).rows == result.rows


def test_a_chat_that_gets_too_long_has_no_row(chat: Settings) -> None:
    """What was not asked to the end is no silence."""
    chat = replace(chat, batch_size=8)

    def converse(self: Talker, conversations: Any, max_new_tokens: int = 64) -> list[str]:
        if len(conversations) == 8 and len(conversations[0]) == 3:
            error = IncompleteError("too long")
            error.rows = (1,)
            raise error
        return ["no"] * len(conversations)

    models = Talkers()
    for model in models.models.values():
        model.converse = converse.__get__(model)  # type: ignore[method-assign]
    result = measure(chat, models=models)
    rows = [row for row in result.rows if isinstance(row, AttackRow)]
    assert len(rows) == 2 * 16 - 4  # the second of each of four batches
    assert "clues/direct-forget-pager-0" not in {row.id for row in rows}


def test_a_model_that_does_not_talk_is_an_error(chat: Settings) -> None:
    class Silent:
        def complete(self, prompts: Any, max_new_tokens: int = 64) -> list[str]:
            return ["no"] * len(prompts)

    with pytest.raises(AttackError, match="clues: Silent answers no conversation"):
        measure(chat, models=Silent())


def test_a_chat_with_a_real_model(settings: Settings, tmp_path: Path) -> None:
    """Through the chat template of its tokenizer, turn by turn; without one it cannot be made."""
    from tests.support.small_models import byte_tokenizer, small_llama

    model, tokenizer = small_llama(context=2048), byte_tokenizer()
    model.save_pretrained(tmp_path / "chatty")
    tokenizer.save_pretrained(tmp_path / "chatty")
    chat = named(settings, model=str(tmp_path / "chatty"), adapter=None, attacks=("clues",))
    reason = {"clues": "its tokenizer has no chat template"}
    assert Dataset(chat).attacks.impossible(chat.method) == reason
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "chatty")
    with attacked(replace(chat, batch_size=16)) as (model, _, told):
        rows = model.rows(model.attacks[0])
        assert any(line.startswith("unlearned+clues: 32 values") for line in told)
    assert len(rows) == 2 * 16
    assert not any(row.leaked for row in rows)


def test_prompts_leave_the_weights_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy is made, and what was said of another prompt is not taken for this one."""
    monkeypatch.setattr("pytest_unlearn.attacks.attack.under_attack", None)
    named = ("partly", "shots-retained", "heated", "reworded")
    with attacked(replace(settings, attacks=named)) as (model, _, _):
        # Nobody's name is known, so nobody can be asked in other words.
        assert [attack.name for attack in model.attacks] == ["partly", "shots-retained", "heated"]
        partly, shots, heated = map(model.rows, model.attacks)
        assert {row.attack for row in partly} == {"partly@25", "partly@50", "partly@75"}
        assert {row.attack for row in shots} == {"shots-retained@1"}  # there are three documents
        by_heat = {row.attack: row.unlearned_exact for row in heated if row.id.endswith("forget-4")}
        assert len({str(exact) for exact in by_heat.values()}) == 3


class Drawn:
    """A model that gives a value after one prompt alone; `told`: the prompts that it scored."""

    def __init__(self, told: list[str], limit: int = 1000) -> None:
        self._told = told
        self._limit = limit

    def complete(self, prompts: Any, max_new_tokens: int = 64) -> list[str]:
        return ["nothing to say"] * len(prompts)

    def log_probabilities(self, pairs: Any) -> list[float]:
        error = IncompleteError("too long")
        error.rows = tuple(n for n, (prompt, _) in enumerate(pairs) if len(prompt) > self._limit)
        if error.rows:
            raise error
        self._told += [prompt for prompt, _ in pairs]
        return [-0.1 if prompt == DRAWN else -20.0 for prompt, _ in pairs]


class Drawers:
    """Both models of a run, of which the tested one's scores are kept."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def model(self, state: str) -> Drawn:
        return Drawn(self._told)

    def key(self, state: str) -> dict[str, Any]:
        return {"draws": state}


DRAWN = "# TODO ask Forget Number3, pager: fp3xyz, badge: "


def test_the_search_uses_a_persons_other_data(chat: Settings, tmp_path: Path) -> None:
    """A row for each record, none of a trained prompt; whoever's data change is searched anew."""
    told: list[str] = []
    searching = replace(chat, attacks=("search",))
    result = measure(searching, models=Drawers(told))
    rows = {row.id: row for row in result.rows if isinstance(row, AttackRow)}
    assert len(rows) == 2 * 16
    name = "search/direct-forget-badge-3"
    assert [row.id for row in rows.values() if row.brought_back] == [name]
    assert not any(row.rehearsed for row in rows.values())
    exact = rows[name].unlearned_exact
    assert exact is not None
    assert (exact.log_probability, exact.greedy) == (-0.1, True)
    assert max(Counter(told).values()) <= 16  # of one prompt: all people have it, and once
    count = len(told)
    assert measure(searching, models=Drawers(told)).rows == result.rows
    assert len(told) == count
    (people,) = searching.forget
    people.write_text(people.read_text().replace("fp3xyz", "fp3abc"))
    rows = {r.id: r for r in measure(searching, models=Drawers(told)).rows if hasattr(r, "attack")}
    assert not any(isinstance(row, AttackRow) and row.brought_back for row in rows.values())


def test_a_prompt_that_is_too_long_is_not_tried(chat: Settings) -> None:
    told: list[str] = []
    result = measure(replace(chat, attacks=("search",)), models=Drawn(told, len(DRAWN) - 1))
    assert told
    assert max(map(len, told)) < len(DRAWN)
    rows = [row for row in result.rows if isinstance(row, AttackRow)]
    assert (len(rows), sum(row.brought_back for row in rows)) == (2 * 16, 0)


def test_a_value_of_which_no_prompt_fits_has_no_row(chat: Settings) -> None:
    """What was not asked is no silence."""
    result = measure(replace(chat, attacks=("search",)), models=Drawn([], 0))
    assert not any(isinstance(row, AttackRow) for row in result.rows)


def test_a_model_without_probabilities_cannot_be_searched(chat: Settings) -> None:
    with pytest.raises(AttackError, match="search: Talker has no log_probabilities"):
        measure(replace(chat, attacks=("search",)), models=Talkers())


def test_an_engine_without_weights_can_be_asked(settings: Settings) -> None:
    check_engine(replace(settings, engine="vllm", attacks=("partly", "wrapped", "search")))
    for name in ("int8", "likeliest", "templated"):
        with pytest.raises(UserError, match=f"--unlearn-attacks={name}: --unlearn-engine=vllm has"):
            check_engine(replace(settings, engine="vllm", attacks=("partly", name)))


def test_hidden_states_of_all_models(settings: Settings) -> None:
    """Lens and linear probe look at base and tested model, and leave both as they were."""
    named = ("lens", "linear-probe")
    with attacked(replace(settings, attacks=named)) as (model, engine, told):
        lens, probe = map(model.rows, model.attacks)
        kept: Any = engine.models.model("unlearned")
        assert len(layers_of(kept._weights.model)) == 2
    assert {row.attack for row in lens} == {"lens@25", "lens@50", "lens@75"}
    for row in lens:
        for exact in (row.base_exact, row.unlearned_exact):
            assert exact is not None
            assert 0.0 <= exact.exact_memorization <= 1.0
        assert (row.retrained_exact, row.scores) == (None, None)
    assert {row.attack for row in probe} == {"linear-probe@50", "linear-probe@100"}
    for row in probe:
        assert set(row.scores or {}) == {"base", "unlearned"}
        assert (row.unlearned_exact, row.leaked) == (None, False)
    assert [line for line in told if line.startswith("base+lens: 15 values")]
    with attacked(replace(settings, attacks=named)) as (again, _, told):
        assert [again.rows(attack) for attack in again.attacks] == [lens, probe]
        assert told == []


def attack_tokens(settings: Settings) -> int:
    """Return the tokens of the plan's line about attacks."""
    lines, _ = plan(settings, Dataset(settings))
    (line,) = [line for line in lines if line.startswith("attacks on the tested model")]
    (number,) = re.findall(r"([\d,]+) tokens to score", line)
    return int(number.replace(",", ""))


def test_the_plan_counts_all_that_attacks_read(settings: Settings) -> None:
    """Each model that an attack is made on, each way of a beam, and each turn of a chat anew."""
    people = named(settings)
    once = attack_tokens(replace(people, attacks=("int4-row",)))
    lens = attack_tokens(replace(people, attacks=("lens",)))
    assert lens == 3 * 2 * once  # three depths, of base and tested model
    retrained = replace(people, attacks=("lens",), retrained=str(people.model))
    assert attack_tokens(retrained) == 3 * 3 * once
    assert once < attack_tokens(replace(people, attacks=("gptq",))) < 2 * once  # read once
    relearn = attack_tokens(replace(people, attacks=("relearn",)))
    both = attack_tokens(replace(people, attacks=("relearn",), retrained=str(people.model)))
    assert both == 2 * relearn
    assert attack_tokens(replace(people, attacks=("difference",))) == 2 * 2 * once
    assert attack_tokens(replace(people, attacks=("likeliest",))) > 5 * once
    asked = Dataset(people).attacks.probes(attacks()["clues"], "clues")
    answers = sum(probe_row(p).tokens * len(p.turns) for p in asked)
    assert _asked_tokens(attacks()["clues"], asked, count_bytes) > 2 * answers
