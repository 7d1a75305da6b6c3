"""States that attacks make of a real model: measured once, kept, and gone again afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_unlearn.attacks.attack import BOTH, attacks, digest_of_weights
from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.lm_head import layers_of
from pytest_unlearn.models.loading import LanguageModel, load, peft_quietly
from pytest_unlearn.models.patching import save_adapter
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.run.attacked import AttackedModel
from pytest_unlearn.run.checks import check_engine
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.job import measure
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.lookup_run import task_lines, write_lines
from tests.unlearning.conftest import knowing_folder, llama_folder

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
        assert {row.base["label"] for row in forget} == {"direct"}
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
    monkeypatch.setattr(LanguageModel, "score", counting)
    with attacked(other) as (model, _, _), pytest.raises(KeyboardInterrupt):
        model.rows(model.attacks[0])
    with attacked(other) as (model, _, _):
        assert len(model.rows(model.attacks[0])) == 5
    assert scored == [2, 1, 1, 2]  # the first batch once, the one that was cut off again


def test_scores_of_an_attack_are_its_own(settings: Settings) -> None:
    """Two attacks, and two versions of one, are never taken for each other in the store."""
    with attacked(settings) as (model, _, _):
        keys = {
            key
            for attack in (*model.attacks, replace(model.attacks[0], version=2))
            for key in model._keys(attack, list(model._pieces(attack)))
        }
    assert len(keys) == 3 * 3


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
    asked = {probe.value.reveal() for probe in dataset.attacked_probes(attack, "relearn@1")}
    texts = dataset.attack_texts(attack)
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
    ((splits, people),) = dataset.attack_texts(attacks()["relearn-retained"])
    assert splits == BOTH
    assert {example.text.partition(" ")[0] for example in people} == {"keep4", "keep5", "keep6"}
    ((_, code),) = dataset.attack_texts(attacks()["relearn-code"])
    assert len(code) > 60
    assert len(dataset.attacked_probes(attacks()["relearn-code"], "relearn-code@1")) == 5


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


def test_an_engine_without_weights_can_be_asked(settings: Settings) -> None:
    check_engine(replace(settings, engine="vllm", attacks=("partly", "wrapped")))


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
            assert 0.0 <= exact["exact_memorization"] <= 1.0
        assert (row.retrained_exact, row.scores) == (None, None)
    assert {row.attack for row in probe} == {"linear-probe@50", "linear-probe@100"}
    for row in probe:
        assert set(row.scores or {}) == {"base", "unlearned"}
        assert (row.unlearned_exact, row.leaked) == (None, False)
    assert [line for line in told if line.startswith("base+lens: 15 values")]
    with attacked(replace(settings, attacks=named)) as (again, _, told):
        assert [again.rows(attack) for attack in again.attacks] == [lens, probe]
        assert told == []
