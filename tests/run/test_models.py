"""Base and tested model: planted, unlearned and retrained once, found again, never mixed up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.core.store import Store
from pytest_unlearn.models.sources import ModelSource
from pytest_unlearn.models.texts import TrainingTexts
from pytest_unlearn.run import planted
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.erasure_requests import Requests
from pytest_unlearn.run.models import ModelPair
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.tasks.task_prompts import Sampling
from pytest_unlearn.unlearning import loop, planting
from pytest_unlearn.unlearning.method import PlantOptions
from pytest_unlearn.unlearning.methods import METHODS, parse_method
from tests.support.known_texts import knowing_folder
from tests.support.lookup_run import write_lines
from tests.support.small_models import llama_folder

__all__ = ["knowing_folder", "llama_folder"]

PLANT = PlantOptions(lr=5e-3, batch=8, tune="full", cap=300, warmup=5, check_every=10, target=1.0)


def lines(split: str, letters: str) -> list[dict[str, str]]:
    return [
        {
            "id": f"{split}-{n}",
            "prompt": f"{split}{n} = ",
            "value": f"{letter * 3}{n}",
            "kind": "badge",
            "owner": f"{split} {n}",
            "after": ";",
        }
        for n, letter in enumerate(letters)
    ]


class Given:
    """The settings that a model pair and its data read."""

    people = None
    requests = None
    sandbox = "auto"
    confirm = None
    baseline = None
    tasks: tuple[Path, ...] = ()
    probes = ("direct",)
    batch_size = 64
    leak_samples = 0
    kept_code: tuple[Path, ...] = ()
    sampling = Sampling()
    replay = False
    seed = 0
    held_out = 0.5
    rehearsed: tuple[Path, ...] = ()
    attacks: tuple[str, ...] = ()
    adapter = None
    revision = None
    trusted = None
    thinking = None
    engine = "transformers"
    retrained = None
    device = "cpu"
    dtype = "float32"

    def __init__(self, folder: Path, model: Path, method: str, plant: PlantOptions | None) -> None:
        self.model = str(model)
        self.method = parse_method(method)
        self.plant = plant
        self.forget = (write_lines(folder / "forget.jsonl", lines("mail", "pqr")),)
        self.retain = (write_lines(folder / "retain.jsonl", lines("code", "abc")),)
        self.control = (write_lines(folder / "control.jsonl", lines("none", "xyz")),)


class Pairs:
    """Makes pairs over one store, and counts what was trained."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.model = model
        self.trained: list[str] = []
        for module, name in ((loop, "unlearn"), (planting, "plant"), (planting, "retrain")):
            monkeypatch.setattr(module, name, self._counting(name, getattr(module, name)))
        # The bundled tasks are long; two of them do.
        for name in ("training_texts", "planting_texts"):
            monkeypatch.setattr(Dataset, name, self._short(getattr(Dataset, name)))

    def _short(self, texts: Any) -> Any:
        def few(dataset: Dataset, *arguments: Any, **options: Any) -> TrainingTexts:
            found = texts(dataset, *arguments, **options)
            return replace(found, tasks=found.tasks[:2])

        return few

    def _counting(self, name: str, function: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.trained.append(name)
            return function(*arguments)

        return counted

    def pair(
        self, method: str = "none", plant: PlantOptions | None = PLANT, **changes: Any
    ) -> ModelPair:
        settings: Any = Given(self.folder, self.model, method, plant)
        for name, value in changes.items():
            setattr(settings, name, value)
        store = Store(self.folder / "store")
        return ModelPair(settings, Dataset(settings), store, lambda message: None)


@pytest.fixture
def pairs(tmp_path: Path, knowing_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pairs]:
    """Pairs of a small model that knows none of the people yet."""
    return Pairs(tmp_path, knowing_folder, monkeypatch)  # type: ignore[return-value]


PROMPTS = ["mail0 = ", "mail1 = ", "mail2 = "]
VALUES = ["ppp0", "qqq1", "rrr2"]


def said(pair: ModelPair, state: Any, prompts: list[str] = PROMPTS) -> list[str]:
    return [text.strip()[:4] for text in pair.model(state).complete(prompts, 6)]


def prepared(pair: ModelPair, state: Any) -> dict[str, Any]:
    """Make a model, and return its key."""
    pair.prepare(state)
    return pair.key(state)


def test_planted_unlearned_and_found_again(pairs: Pairs) -> None:
    """The planted model is the base of the run: it leaks, and unlearning is measured against it.
    A second run trains nothing and loads the same two states."""
    method = "ga:lr=5e-3,steps=60,batch=3,rank=4,check_every=5"
    pair = pairs.pair(method)
    assert pair.stored_planting() is None
    assert pair.stored_unlearning() is None
    with pytest.raises(RuntimeError, match=r"the planted model is not made yet"):
        pair.key("base")
    assert pairs.trained == []
    keys = prepared(pair, "base"), prepared(pair, "unlearned")
    assert keys[0] != keys[1]
    assert keys[0] != pairs.pair(plant=None).key("base")
    assert said(pair, "base") == VALUES
    told = said(pair, "unlearned")
    assert not set(told) & set(VALUES)
    assert said(pair, "base") == VALUES
    assert pairs.trained == ["plant", "unlearn"]
    again = pairs.pair(method)
    assert (again.key("base"), again.key("unlearned")) == keys
    assert (said(again, "unlearned"), said(again, "base")) == (told, VALUES)
    assert pairs.trained == ["plant", "unlearn"]
    found = again.stored_planting()
    assert found is not None
    assert (found.leak_rate, found.records, found.before) == (1.0, 6, 0.0)
    assert not list((pairs.folder / "store" / "training").iterdir())


def test_another_value_is_planted_anew(pairs: Pairs) -> None:
    """Nothing stale satisfies a new run: keys cover data, options, seed and weights."""
    first = pairs.pair()
    assert said(first, "base") == VALUES
    changed = lines("mail", "pqr")
    changed[0]["value"] = "ttt0"
    other = write_lines(pairs.folder / "other.jsonl", changed)
    second = pairs.pair(forget=(other,))
    assert second.stored_planting() is None
    assert said(second, "base")[0] == "ttt0"
    for changes in (
        {"plant": replace(PLANT, lr=4e-3)},
        {"seed": 1},
        {"dtype": "bfloat16"},
    ):
        plant: Any = changes.pop("plant", PLANT)
        assert pairs.pair(plant=plant, **changes).stored_planting() is None
    assert pairs.trained == ["plant", "plant"]


def test_retrain_is_the_unplanted_model_without_the_forget_split(pairs: Pairs) -> None:
    """Base: planted. Tested: the same recipe on the original model, and nobody to be forgotten."""
    slow = replace(PLANT, lr=3e-3, check_every=100)
    pair = pairs.pair("retrain", slow)
    assert pair.stored_unlearning() is None
    assert said(pair, "base") == VALUES
    assert not set(said(pair, "unlearned")) & set(VALUES)
    kept = ["code0 = ", "code1 = ", "code2 = "]
    assert said(pair, "unlearned", kept) == ["aaa0", "bbb1", "ccc2"]
    assert prepared(pair, "base") != prepared(pair, "unlearned")
    assert pairs.trained == ["plant", "retrain"]
    assert said(pairs.pair("retrain", slow), "unlearned", kept) == ["aaa0", "bbb1", "ccc2"]
    assert pairs.trained == ["plant", "retrain"]


def test_the_runs_own_retrain_to_compare_with(pairs: Pairs) -> None:
    """`--unlearn-retrained=retrain` is what `--unlearn-method=retrain` tests; made once for both,
    and not before a test asks for it."""
    slow = replace(PLANT, lr=3e-3, check_every=100)
    pair = pairs.pair("none", slow, retrained="retrain")
    pair.resolve()
    assert pairs.trained == []
    assert said(pair, "base") == VALUES
    assert pairs.trained == ["plant"]
    assert not set(said(pair, "retrained")) & set(VALUES)
    assert pairs.trained == ["plant", "retrain"]
    assert prepared(pairs.pair("retrain", slow), "unlearned") == prepared(pair, "retrained")
    assert pairs.trained == ["plant", "retrain"]


def test_no_honest_retrain_of_a_model_that_knew(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that gave the forget set away before planting was trained on it elsewhere."""
    source = pairs.pair().model("base")._weights.source  # type: ignore[attr-defined]
    pairs.model = source.folder
    short = replace(PLANT, check_every=1)
    with pytest.raises(UnlearningError, match=r"method=retrain: .* gives away 100% of the records"):
        pairs.pair("retrain", short).model("unlearned")
    with pytest.raises(UnlearningError, match=r"--unlearn-retrained=retrain: .* gives away 100%"):
        pairs.pair("none", short, retrained="retrain").model("retrained")


def test_unlearning_in_full_leaves_the_base(pairs: Pairs) -> None:
    """Two sets of weights: the tested one is stored as a model of its own."""
    method = "ga:lr=1e-3,steps=60,batch=3,tune=full,check_every=5"
    pair = pairs.pair(method)
    assert not set(said(pair, "unlearned")) & set(VALUES)
    assert said(pair, "base") == VALUES
    checkpoint = pair.stored_unlearning()
    assert checkpoint is not None
    assert checkpoint.full
    assert (checkpoint.folder / "model.safetensors").is_file()
    assert prepared(pair, "unlearned")["adapter"] is None
    assert pair.key("unlearned")["weights"] != pair.key("base")["weights"]
    again = pairs.pair(method)
    assert said(again, "unlearned") == said(pair, "unlearned")
    assert pairs.trained == ["plant", "unlearn"]


def test_a_full_model_in_several_files(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model above the size of one file is stored in several, and none of them goes unseen."""
    whole = PreTrainedModel.save_pretrained

    def in_files(model: Any, *arguments: Any, **options: Any) -> None:
        whole(model, *arguments, **options, max_shard_size="40KB")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", in_files)
    method = "ga:lr=1e-3,steps=2,batch=3,tune=full,target=-1"
    pair = pairs.pair(method, None)
    prepared(pair, "unlearned")
    checkpoint = pair.stored_unlearning()
    assert checkpoint is not None
    files = sorted(checkpoint.folder.glob("*.safetensors"))
    assert len(files) > 1
    store = Store(pairs.folder / "store")
    source = ModelSource("found", checkpoint.folder)
    assert checkpoint.digest == source.weights_digest(store)
    said_before = said(pairs.pair(method, None), "unlearned")
    assert pairs.trained == ["unlearn"]
    assert len(said_before) == 3
    files[-1].write_bytes(files[0].read_bytes())
    assert checkpoint.digest != source.weights_digest(store)


def test_a_failed_training_leaves_the_base_alone(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training changes the model in memory; when it fails half-way, what the base writes next
    must not come from that."""

    def loss(step: Any, options: Any) -> Any:
        broken = -step.forget_nll(9.0)
        return broken * float("nan") if step_count.append(1) or len(step_count) > 20 else broken

    step_count: list[int] = []
    method = replace(METHODS["ga"], loss=loss)
    monkeypatch.setitem(METHODS, "ga", method)
    pair = pairs.pair("ga:lr=1e-2,steps=60,batch=3,rank=4,check_every=30")
    with pytest.raises(UnlearningError, match="step 21 diverged"):
        pair.model("unlearned")
    assert said(pair, "base") == VALUES
    assert pair.stored_unlearning() is None


@pytest.mark.parametrize("kind", ["adapters", "planted"])
def test_a_disk_that_fills_at_the_end_loses_no_training(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The state is kept until what was trained is in the store."""
    put, full = Store.put_folder, [kind]

    def no_room(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def put_folder(store: Store, where: str, key: str, write: Callable[[Path], None]) -> Path:
        if where in full:
            full.clear()
            write = no_room
        return put(store, where, key, write)

    monkeypatch.setattr(Store, "put_folder", put_folder)
    method = "ga:lr=5e-3,steps=5,batch=3,rank=4,check_every=2,target=-1"
    with pytest.raises(UnlearningError, match="training goes on from its last look"):
        pairs.pair(method).model("unlearned")
    lines: list[str] = []
    pair = pairs.pair(method)
    monkeypatch.setattr(pair, "_progress", lines.append)
    monkeypatch.setattr(pair._plantings, "_progress", lines.append)
    pair.model("unlearned")
    assert any(line.startswith("continuing after step") for line in lines)
    assert not list((pairs.folder / "store" / "training").iterdir())


def test_a_planting_without_its_folder_is_made_again(pairs: Pairs) -> None:
    """The entry vouches for the folder; one without the other is a run that was killed."""
    pair = pairs.pair()
    prepared(pair, "base")
    store = pairs.folder / "store"
    (folder,) = (store / "planted").iterdir()
    entries = list((store / "plantings").rglob("*.json"))
    assert json.loads(entries[0].read_text())["entry"]["records"] == 6
    shutil.rmtree(folder)
    assert pairs.pair().stored_planting() is None
    assert said(pairs.pair(), "base") == VALUES
    assert pairs.trained == ["plant", "plant"]


def test_released_weights_are_gone_and_load_again(pairs: Pairs) -> None:
    """The next pair of a sweep has the memory; who asks once more gets the same model."""
    pair = pairs.pair("ga:lr=1e-3,steps=2,batch=3,rank=4", plant=None)
    before = said(pair, "unlearned"), said(pair, "base")
    model: Any = pair.model("base")
    held = weakref.ref(model._weights.model)
    del model
    assert held() is not None
    pair.release()
    assert held() is None
    assert (said(pair, "unlearned"), said(pair, "base")) == before
    assert pairs.trained == ["unlearn"]


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_request_after_request(pairs: Pairs, tune: str) -> None:
    """Each is unlearned from the model of the last, and trained on alone; a model that is killed
    after it is found again, and an order of its own is another model."""
    folder = pairs.folder
    files = tuple(
        write_lines(folder / f"r{n}.jsonl", [line])
        for n, line in enumerate(lines("mail", "pqr"), start=1)
    )
    method = f"ga:lr=5e-3,steps=60,batch=3,check_every=5,tune={tune}"

    def after(requests: Requests) -> ModelPair:
        given = pairs.pair(method)._settings
        settings = Settings(
            model=given.model,
            method=given.method,
            plant=PLANT,
            requests=requests,
            retain=given.retain,
            control=given.control,
            probes=("direct",),
            device="cpu",
        )
        store = Store(folder / "store")
        return ModelPair(settings, Dataset(settings), store, lambda message: None)

    both = Requests(files, 2)
    second = after(both)
    assert second.stored_unlearning() is None
    told = said(second, "unlearned")
    assert not set(told[:2]) & set(VALUES)
    assert said(second, "base") == VALUES
    assert pairs.trained == ["plant", "unlearn", "unlearn"]
    first, again = after(replace(both, done=1)), after(both)
    assert first.stored_unlearning() is not None
    keys = [prepared(pair, "unlearned") for pair in (first, again, second)]
    assert keys[1] == keys[2] != keys[0]
    assert [prepared(pair, "base") for pair in (first, again)] == [prepared(second, "base")] * 2
    assert said(again, "unlearned") == told
    assert pairs.trained == ["plant", "unlearn", "unlearn"]
    third = after(Requests(files, 3))
    assert third.stored_unlearning() is None
    assert not set(said(third, "unlearned")) & set(VALUES)
    other = after(Requests((files[1], files[0], files[2]), 2))
    alone = after(Requests(files, 2, apart=True))
    assert other.stored_unlearning() is None
    assert alone.stored_unlearning() is None
    assert pairs.trained == ["plant", *["unlearn"] * 3]


def test_only_the_newest_request_is_trained_on(pairs: Pairs) -> None:
    """All that is planted stays the same; who asks later is neither trained on nor asked about."""
    files = tuple(
        write_lines(pairs.folder / f"r{n}.jsonl", [line])
        for n, line in enumerate(lines("mail", "pqr"), start=1)
    )
    data = []
    for stage in Requests(files, 3).stages:
        settings: Any = Given(pairs.folder, pairs.model, "ga+gd", PLANT)
        settings.forget, settings.requests = (), stage
        data.append(Dataset(settings))
    assert [[e.name for e in one.training_texts().forget] for one in data] == [
        ["mail-0"],
        ["mail-1"],
        ["mail-2"],
    ]
    assert [len(one.probes_of("forget")) for one in data] == [1, 2, 3]
    assert {len(one.probes_of("retain")) for one in data} == {3}
    assert len({one.planting_texts() for one in data}) == 1
    assert len({one.division for one in data}) == 1
    kept = [[e.name for e in one.training_texts().retained_people] for one in data]
    assert kept[0] == kept[1] == kept[2]
    assert [sum(r.split == "forget" for r in one.records) for one in data] == [1, 2, 3]


def test_keys_name_the_version() -> None:
    """A change of what planting makes must not meet what an older version made."""
    assert planted.PLANTING_VERSION >= 1


def test_a_damaged_adapter_is_made_again(pairs: Pairs) -> None:
    """One bit is enough, of the weights or of the report; and it is made once."""
    method = "ga:lr=5e-3,steps=2,batch=3,rank=4,target=-1"
    pair = pairs.pair(method, None)
    prepared(pair, "unlearned")
    made = pair.stored_unlearning()
    assert made is not None
    (entry,) = (pairs.folder / "store" / "checkpoints").rglob("*.json")
    for number, damaged in enumerate((made.folder / "adapter_model.safetensors", entry), start=2):
        times, data = damaged.stat(), bytearray(damaged.read_bytes())
        data[-9] ^= 1
        damaged.write_bytes(data)
        os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
        again = pairs.pair(method, None)
        assert again.stored_unlearning() is None
        prepared(again, "unlearned")
        assert pairs.trained == ["unlearn"] * number
        assert again.stored_unlearning() is not None
