"""The engine's scores are those of the values at hand, read or made once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.case_rows import TaskRow
from pytest_unlearn.models.scoring import ValueScores
from pytest_unlearn.models.texts import DecodingScheme, Example
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.measuring import CompletionError, Measuring
from pytest_unlearn.tasks.task_prompts import Sampling
from pytest_unlearn.testing import LookupModel, LookupModels
from pytest_unlearn.unlearning.methods import MethodChoice
from tests.support.datasets import DataSettings
from tests.support.lookup_run import record_lines, task_lines, write_lines


class Given(DataSettings):
    """The settings that a data set and an engine read."""

    replay = False
    exposure = 0
    decoding = DecodingScheme()
    membership: tuple[str, ...] = ()
    retrained = None
    sandbox_imports: tuple[str, ...] = ()
    task_timeout = None
    method = MethodChoice(None, None)

    def __init__(self, forget: Path, store: Path) -> None:
        self.forget = (forget,)
        self.store = store


class ScoringModels(LookupModels):
    """A lookup backend with scores; `scored` holds what it was asked to score."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.scored: list[str] = []

    def model(self, state: Any) -> LookupModel:
        found: Any = super().model(state)
        found.score = self.score
        return found  # type: ignore[no-any-return]

    def score(self, examples: Sequence[Example], scheme: DecodingScheme) -> list[ValueScores]:
        self.scored += [example.text[example.start : example.end] for example in examples]
        return [  # ties: what the lookup writes and what greedy decoding says need not agree
            ValueScores((-1.0,), (-1.0,), (False,), (0.0,), 0.0, 0.0, False, 8, margin=0.0)
            for _ in examples
        ]


def scored(rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Run all probes of a data file on a store in `folder`; return what was scored."""
    settings: Any = Given(write_lines(folder / "forget.jsonl", rows), folder / "store")
    dataset = Dataset(settings)
    models = ScoringModels(dataset)
    engine = Measuring(settings, dataset, models=models)
    try:
        for probe in dataset.probes:
            row = engine.run_probe(probe)[1]
            assert row.base_exact is not None
            assert row.base_exact.loss == pytest.approx(1.0)
    finally:
        engine.close()
    return models.scored


def test_scores_are_made_once_and_never_taken_from_another_value(tmp_path: Path) -> None:
    """A prompt does not name its value: with another one the stored scores are not its own."""
    rows = record_lines("forget", 4)
    assert len(scored(rows, tmp_path)) == 2 * len(rows)  # base and tested model
    assert scored(rows, tmp_path) == []
    changed = [{**row, "value": row["value"][::-1]} for row in rows]
    assert set(scored(changed, tmp_path)) == {row["value"] for row in changed}


class DrawnModels(LookupModels):
    """A lookup backend that solves a task by the parity of the sample's seed; notes the seeds."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.seeds: dict[str, list[int]] = {"base": [], "unlearned": []}

    def model(self, state: Any) -> LookupModel:
        found: Any = super().model(state)

        def write(style: str, prompts: Sequence[str], suffixes: Any, decoding: Any) -> list[str]:
            self.seeds[state] += decoding.seeds
            right = [self.answer(state, prompt, "completion") for prompt in prompts]
            return [
                text if seed % 2 else "\n    pass\n"
                for text, seed in zip(right, decoding.seeds, strict=True)
            ]

        found.write = write
        return found  # type: ignore[no-any-return]


def sampled(folder: Path, samples: int, batch_size: int = 64) -> tuple[list[TaskRow], DrawnModels]:
    """Run three tasks with samples on the store in `folder`."""
    settings: Any = Given(write_lines(folder / "f.jsonl", record_lines("forget", 2)), folder / "s")
    settings.tasks = (write_lines(folder / "tasks.jsonl", task_lines(3)),)
    settings.sampling = Sampling(samples, 0.8, 0.95, (1, samples))
    settings.batch_size = batch_size
    dataset = Dataset(settings)
    models = DrawnModels(dataset)
    engine = Measuring(settings, dataset, models=models)
    try:
        return [engine.run_task(case)[1] for case in dataset.tasks], models
    finally:
        engine.close()


def test_base_and_tested_model_are_paired_by_task_and_seed(tmp_path: Path) -> None:
    """The same seeds on both, in whatever batches, and each sample drawn once."""
    rows, models = sampled(tmp_path, 5)
    assert len(set(models.seeds["base"])) == 15
    assert models.seeds["base"] == models.seeds["unlearned"]
    for row in rows:
        assert row.base_samples == row.unlearned_samples
        assert len(row.base_samples) == 5
        assert (row.base, row.ks) == (row.base_samples[0], (1, 5))
        share = row.base_samples.count("passed") / 5
        assert row.pass_at("base") == pytest.approx(share)
        assert row.base_parses == pytest.approx(share)  # `pass` is no body
    assert {s for row in rows for s in row.base_samples} == {"passed", "wrong_answer"}
    again, others = sampled(tmp_path, 5, batch_size=4)
    assert again == rows
    assert others.seeds == {"base": [], "unlearned": []}


def test_more_samples_keep_the_ones_there_are(tmp_path: Path) -> None:
    """A sample's seed does not depend on how many there are."""
    first = sampled(tmp_path, 2)[0]
    rows, models = sampled(tmp_path, 4)
    assert len(models.seeds["base"]) == 12  # a chunk is made as a whole
    assert [row.base_samples[:2] for row in rows] == [row.base_samples for row in first]


def test_samples_of_a_model_that_draws_none_are_an_error(tmp_path: Path) -> None:
    settings: Any = Given(
        write_lines(tmp_path / "f.jsonl", record_lines("forget", 2)), tmp_path / "s"
    )
    settings.tasks = (write_lines(tmp_path / "tasks.jsonl", task_lines(1)),)
    settings.sampling = Sampling(2, 0.8, 0.95, (1,))
    dataset = Dataset(settings)

    class Plain:
        def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
            return ["x"] * len(prompts)

    models: Any = LookupModels(dataset)
    models.model = lambda state: Plain()
    engine = Measuring(settings, dataset, models=models)
    try:
        with pytest.raises(CompletionError, match=r"Plain cannot sample.*--unlearn-samples"):
            engine.run_task(dataset.tasks[0])
    finally:
        engine.close()


class Odd(LookupModels):
    """A lookup backend whose tested model gives something else than a text for each prompt."""

    def __init__(self, dataset: Dataset, given: Any) -> None:
        super().__init__(dataset)
        self.given = given

    def model(self, state: Any) -> LookupModel:
        found: Any = super().model(state)
        if state == "unlearned":
            found.complete = lambda prompts, max_new_tokens: self.given(prompts)
        return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda prompts: None, r"complete\(\) returned None; it must return a list of 4 strings"),
        (lambda prompts: [None] * 4, r"complete\(\) returned None for direct-"),
        (lambda prompts: [b"x"] * 4, "returned an object of the class bytes for direct-"),
        (lambda prompts: ["x"] * 3, "returned 3 texts for 4 prompts"),
        (lambda prompts: ["x"] * 5, "returned 5 texts for 4 prompts"),
        (lambda prompts: "text", "returned an object of the class str; it must return a list"),
        (lambda prompts: [""] * 4, "returned 4 empty texts for 4 prompts"),
    ],
)
def test_what_is_no_answer_is_never_stored(tmp_path: Path, given: Any, message: str) -> None:
    """Nor is it one in a later run, when what the backend gave would be read from the store."""
    path = write_lines(tmp_path / "forget.jsonl", record_lines("forget", 4))
    settings: Any = Given(path, tmp_path / "store")
    dataset = Dataset(settings)
    for _ in range(2):
        engine = Measuring(settings, dataset, models=Odd(dataset, given))
        try:
            for number, probe in enumerate(dataset.probes):
                error = message if number == 0 else "failed before in this run"
                with pytest.raises(CompletionError, match=error):
                    engine.run_probe(probe)
                assert engine.stored_text("unlearned", probe.id) is None
        finally:
            engine.close()


class Disagreeing(LookupModels):
    """A lookup backend whose scores contradict what it writes, by a margin."""

    def __init__(self, dataset: Dataset, margin: float, **facts: str) -> None:
        super().__init__(dataset)
        self.margin = margin
        self.facts = facts

    def key(self, state: Any) -> dict[str, Any]:
        return {**super().key(state), **self.facts}

    def model(self, state: Any) -> LookupModel:
        found: Any = super().model(state)
        found.score = lambda examples, scheme: [
            ValueScores((-1.0,), (-1.0,), (True,), (0.0,), 0.0, 0.0, True, 8, self.margin)
            for _ in examples
        ]
        return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("margin", "facts"),
    [
        (2.0, {}),
        (1e-4, {}),
        (0.3, {"dtype": "bfloat16"}),
        (1.1, {"dtype": "float32", "quantized": "gptq"}),
        (0.3, {"dtype": "float32", "quantized": "bitsandbytes"}),
    ],
)
def test_completion_and_exact_score_agree(
    tmp_path: Path, margin: float, facts: dict[str, str]
) -> None:
    """Where they part by more than rounding, what the scores give counts: it was hidden."""
    path = write_lines(tmp_path / "forget.jsonl", record_lines("forget", 2))
    settings: Any = Given(path, tmp_path / "store")
    dataset = Dataset(settings)
    told: list[str] = []
    engine = Measuring(settings, dataset, told.append, models=Disagreeing(dataset, margin, **facts))
    try:
        if margin > 1:
            _, row = engine.run_probe(dataset.probes[0])
            assert (row.unlearned.label, row.unlearned.how) == ("direct", "scored")
            assert any(dataset.probes[0].id in line for line in told)
        else:
            engine.run_probe(dataset.probes[0])
            assert any("within rounding" in line for line in told)
    finally:
        engine.close()


class Alone:
    """A model that completes, and nothing else: no key, no states."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        return ["..."] * len(prompts)


def test_an_object_with_complete_alone_works(tmp_path: Path) -> None:
    """It is one model in both states; without a key, a later run does not find what it wrote."""
    path = write_lines(tmp_path / "forget.jsonl", record_lines("forget", 2))
    settings: Any = Given(path, tmp_path / "store")
    dataset = Dataset(settings)
    models: Any = Alone()
    engine = Measuring(settings, dataset, models=models)
    again = Measuring(settings, dataset, models=models)
    try:
        row = engine.run_probe(dataset.probes[0])[1]
        assert row.unlearned_exact is None
        assert again.stored_text("base", dataset.probes[0].id) is None
    finally:
        engine.close()
        again.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (object(), r"class object, which has neither model\(state\) nor complete\("),
        (SimpleNamespace(model=lambda state: None), r"model\(state\) and no key\(state\)"),
        (
            SimpleNamespace(model=lambda state: None, key=lambda state: None),
            r"key\('base'\) must be a dict",
        ),
        (
            SimpleNamespace(model=lambda state: None, key=lambda state: {"x": object()}),
            r"key\('base'\) is not plain JSON data",
        ),
        (
            SimpleNamespace(model=lambda state: None, key=lambda state: {"x": state}),
            r"model\('base'\): .*NoneType has no complete\(",
        ),
    ],
)
def test_a_backend_that_is_none_is_named(tmp_path: Path, given: Any, message: str) -> None:
    """Where it stands, with what it lacks."""
    path = write_lines(tmp_path / "forget.jsonl", record_lines("forget", 2))
    settings: Any = Given(path, tmp_path / "store")
    dataset = Dataset(settings)

    def run() -> None:
        with contextlib.closing(Measuring(settings, dataset, models=given)) as engine:
            engine.run_probe(dataset.probes[0])

    with pytest.raises(UserError, match=message):
        run()
