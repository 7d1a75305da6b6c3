"""Runs every case on base and tested model; each completion is made once and stored. No pytest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import IncompleteError
from pytest_unlearn.core.secret import Secret
from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.gates.case_rows import ProbeRow, TaskRow
from pytest_unlearn.leaks.exact import ExactScores, exposure_row
from pytest_unlearn.leaks.outcome import Detector, Outcome, is_degenerate
from pytest_unlearn.leaks.prompt_search import (
    SearchOptions,
    SearchReport,
    search_records,
    search_targets,
)
from pytest_unlearn.models.engine import METHODS, abilities_of, is_address
from pytest_unlearn.models.texts import Example
from pytest_unlearn.run.answers import (
    HIDDEN,
    Backend,
    Completion,
    CompletionError,
    Completions,
    Judged,
    RowsByPart,
    SolutionLosses,
    check_count,
    completed,
    decoding_key,
    disagreement,
    keeping,
    score_row,
)
from pytest_unlearn.run.checks import check_tasks
from pytest_unlearn.run.divisions import example_of
from pytest_unlearn.run.endpoints import EndpointModels
from pytest_unlearn.run.models import STATES, Completer, ModelPair, Models, State
from pytest_unlearn.run.noted_runs import Replayed, recorded
from pytest_unlearn.run.provenance import Phases
from pytest_unlearn.sandbox import Sandbox, SolutionVerdict, UnsupportedSolution
from pytest_unlearn.tasks.extraction import Solution, solution_of
from pytest_unlearn.tasks.format import TaskCase

if TYPE_CHECKING:
    from pytest_unlearn.models.engine import Ability
    from pytest_unlearn.probes.families import Probe
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.divisions import Chunk
    from pytest_unlearn.run.models import Models, State
    from pytest_unlearn.run.settings import Settings


# Increase when a change to this package changes what a model writes after the same prompt.
GENERATION_VERSION = 4
# The same for the scores of a value.
SCORES_VERSION = 2
BEFORE = "failed before in this run: "


class Measuring:
    """Runs cases on both models of a run; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        progress: Callable[[str], None] = lambda message: None,
        threads: int | None = None,
        models: Models | None = None,
        core: int | None = None,
        beside: Measuring | None = None,
        before: ModelPair | None = None,
    ) -> None:
        """`threads`: CPU threads for generation, if several workers share the machine. `models`:
        replaces the models that the settings name. `core`: the processor core that solutions run
        on, if several workers share the machine. `beside`: another engine with the same tasks,
        whose sandbox, verdicts and phases are shared, and its detector if the records are the same;
        none of these depends on a model. `before`: see `ModelPair`. Raises ImportNotFoundError if a
        package that solutions may import is not installed.
        """
        self._dataset = dataset
        self._store = Store(settings.store, settings.replay)
        self.progress = progress
        alike = beside if beside and beside._dataset is dataset else None
        self.detector: Detector = alike.detector if alike else Detector(dataset.records)
        self._exposure = settings.exposure
        self._scheme = settings.decoding
        self._gradients = "gradnorm" in settings.membership
        self._task_timeout = settings.task_timeout
        self._states: tuple[State, ...] = (*STATES, "retrained") if settings.retrained else STATES
        self._rehearsed = dataset.rehearsed(settings.method)
        self.sandbox: Sandbox = (
            beside.sandbox
            if beside
            else Sandbox(mode=settings.sandbox, imports=settings.sandbox_imports, core=core)
        )
        self.phases: Phases = beside.phases if beside else Phases()
        self._verdicts: dict[str, SolutionVerdict] = beside._verdicts if beside else {}
        self._failed: dict[str, str] = {}
        self._searches: dict[int, SearchReport] = {}
        self._hidden = False  # whether a completion hid a value
        # Why a model of this run could not be made or loaded.
        self.no_model: Exception | None = None
        self._prepared: dict[State, dict[str, Any]] = {}
        # Cases whose text does not fit a model's context, and the message for each.
        self._too_long: dict[tuple[State, str], str] = {}
        self._known_keys: dict[tuple[State, str], list[str]] = {}
        self._scores: dict[tuple[State, str], dict[str, ExactScores]] = {}
        noted = recorded(settings, dataset, self._store) if settings.replay else None
        # The gates of the run that filled the store, as they were written.
        self.recorded_gates: tuple[str, ...] = noted.gates if noted else ()
        backend = None if models is None else Backend(models)
        self.models: Models = (
            noted
            or backend
            or (
                EndpointModels(settings, progress)
                if is_address(settings.model)
                else ModelPair(settings, dataset, self._store, progress, threads, before)
            )
        )
        if settings.replay and noted is None:
            self.models = Replayed(self.models)
        self._losses = SolutionLosses(
            dataset.tasks, self.models, self._store, self.prepared_key, self._failing_once
        )

    def close(self) -> None:
        """End the sandbox's processes."""
        self.sandbox.close()

    def make_ready(self, case: Probe | TaskCase) -> None:
        """Make the models, completions and scores that a case needs and the store does not have.

        Running the case then only reads and judges. Raises as `run_probe` and `run_task` do.
        """
        for state in self._states:
            if isinstance(case, TaskCase):
                for name in self._dataset.samples_of(case):
                    self._text(state, name)
                self._losses.of(state, case)
            else:
                self._text(state, case.id)
                self.exact(state, case)

    def run_probe(self, probe: Probe) -> tuple[Completions[Outcome], ProbeRow]:
        """Complete a probe on both models and classify what came out."""
        texts = [self._text(state, probe.id) for state in self._states]
        exact = [self.exact(state, probe) for state in self._states]
        asked = zip(self._states, texts, exact, strict=True)
        outcomes = [self._outcome(probe, state, text, scores) for state, text, scores in asked]
        row = ProbeRow(
            id=probe.id,
            split=probe.split,
            kind=probe.kind,
            carrier=probe.carrier,
            owner=probe.owner,
            family=probe.family,
            planted=probe.planted,
            knowledge=probe.knowledge,
            cluster=probe.cluster,
            request=probe.request,
            base=outcomes[0],
            unlearned=outcomes[1],
            base_exact=exact[0],
            unlearned_exact=exact[1],
            retrained=outcomes[2] if outcomes[2:] else None,
            retrained_exact=exact[2] if outcomes[2:] else None,
            rehearsed=probe.id in self._rehearsed,
            base_sampled=self._sampled("base", probe),
            unlearned_sampled=self._sampled("unlearned", probe),
        )
        return _completions(texts[:2], outcomes[:2]), row

    def _sampled(self, state: State, probe: Probe) -> tuple[int, int] | None:
        """Return how many of the texts sampled for a probe have its value, and how many there are.

        Raises CompletionError if one of them cannot be made.
        """
        chunk = self._dataset.drawn(probe)
        if chunk is None:
            return None
        keys = self._keys(state, chunk)
        texts = [self._stored(key) for key in keys]
        if None in texts:
            claim = self._store.claim(digest_of([keys[0], chunk.id]))
            with self._failing_once(f"{state} {chunk.id}"), claim:
                texts = self._complete(state, chunk, keys)
        drawn = [text for text in texts if text is not None]
        if len(drawn) < len(texts):
            case = chunk.cases[texts.index(None)]
            raise CompletionError(self._too_long[state, case])
        labels = [self.detector.outcome(probe, text).label for text in drawn]
        return labels.count("direct"), len(drawn)

    def run_task(self, case: TaskCase) -> tuple[Completions[SolutionVerdict], TaskRow]:
        """Complete a task on both models and judge the solutions in the sandbox.

        Raises SandboxError if a solution cannot be judged.
        """
        base, tested, *other = (
            tuple(self._sample(case, self._text(state, n)) for n in self._dataset.samples_of(case))
            for state in self._states
        )
        new = other[0] if other else ()
        row = TaskRow(
            id=case.id,
            task=case.task_id,
            base=base[0].outcome.status,
            unlearned=tested[0].outcome.status,
            base_samples=tuple(sample.outcome.status for sample in base),
            unlearned_samples=tuple(sample.outcome.status for sample in tested),
            ks=self._dataset.sampling.ks,
            group=case.group,
            base_parses=self._parse_share(case, base),
            unlearned_parses=self._parse_share(case, tested),
            base_degenerate=_share(is_degenerate(sample.text.reveal()) for sample in base),
            unlearned_degenerate=_share(is_degenerate(sample.text.reveal()) for sample in tested),
            base_loss=self._losses.of("base", case),
            unlearned_loss=self._losses.of("unlearned", case),
            run_again=sum(sample.outcome.run_again for sample in base + tested),
            rehearsed=case.id in self._rehearsed,
            cluster=case.cluster,
            retrained=new[0].outcome.status if new else None,
            retrained_samples=tuple(sample.outcome.status for sample in new),
            retrained_parses=self._parse_share(case, new) if new else None,
        )
        return Completions(base[0], tested[0], base, tested), row

    def check_tasks(self) -> list[str]:
        """Judge the tasks' own solutions; see `checks.check_tasks`. Raises TaskFileError."""
        return check_tasks(self._dataset.tasks, self._judge)

    def _sample(self, case: TaskCase, text: str) -> Completion[SolutionVerdict]:
        return Completion(Secret(text, "completion"), self._judge(case, text))

    def _parse_share(self, case: TaskCase, samples: Iterable[Completion[Any]]) -> float:
        return _share(self._solution(case, sample.text.reveal()).whole for sample in samples)

    def _solution(self, case: TaskCase, completion: str) -> Solution:
        return solution_of(case, completion, self._dataset.sampling.style)

    def _outcome(
        self, probe: Probe, state: State, text: str, scores: ExactScores | None
    ) -> Outcome:
        """Return the outcome of a completion, or of the value that it hides by its exact score.

        Both follow greedy decoding, token by token and in a single pass. Raises CompletionError if
        they contradict each other in another way, since silence would then prove nothing.
        """
        outcome = self.detector.outcome(probe, text)
        if scores is None or self._dataset.chunk_of_case[probe.id].seeds:
            return outcome
        example = example_of(probe)
        value = example.text[len(example.text[: example.start].rstrip()) : example.end]
        if (wrote := text.startswith(value)) == scores.greedy:
            return outcome
        note = disagreement(probe, state, wrote, scores, self.models.key(state))
        if note is not None:
            self.progress(note)
            return outcome
        if not self._hidden:
            self.progress(HIDDEN.format(probe.id))
        self._hidden = True
        hidden = self.detector.outcome(probe, value)
        return replace(hidden, how="scored") if hidden.label == "direct" else outcome

    def exact(self, state: State, probe: Probe) -> ExactScores | None:
        """Return the exact scores of a probe's value, from the store or from one pass over its
        chunk.

        None for prompts that do not end where the value starts, and for a conftest's models without
        scores.
        """
        if not probe.exact:
            return None
        chunk = self._dataset.chunk_of_case[probe.id]
        if (state, chunk.id) not in self._scores:
            decoy_count = self._exposure if probe.family == "direct" else 0
            self._scores[state, chunk.id] = self._scores_of(state, chunk, decoy_count)
        scores = self._scores[state, chunk.id].get(probe.id)
        if scores is None and (state, probe.id) in self._too_long:
            raise CompletionError(self._too_long[state, probe.id])
        return scores

    def _scores_of(self, state: State, chunk: Chunk, decoy_count: int) -> dict[str, ExactScores]:
        """Return the scores of a chunk's probes by id, from the store or made now."""
        probes = [self._dataset.probe(case) for case in chunk.cases]
        examples = [example_of(probe) for probe in probes]
        model_key = self.prepared_key(state)
        # The chunk's id covers only its prompts; the key needs the values as well.
        key = digest_of(
            {
                "model": model_key,
                "probes": chunk.cases,
                "examples": [asdict(example) for example in examples],
                "scheme": asdict(self._scheme),
                "gradients": self._gradients,
                "decoys": decoy_count,
                "avoided": sorted(self._dataset.values) if decoy_count else [],
                "version": SCORES_VERSION,
            }
        )
        entry = self._store.get("scores", key, "rows", "failed")
        if entry is None or entry["failed"]:
            with self._failing_once(f"{state} scores of {chunk.id}"), self._store.claim(key):
                entry = self._store.get("scores", key, "rows", "failed")
                entry = entry or {"rows": {}, "failed": list(chunk.cases)}
                again = [n for n, case in enumerate(chunk.cases) if case in entry["failed"]]
                if again:
                    kept = RowsByPart(self._store, key, entry["rows"], chunk.cases)
                    scored, failed = self._scored(
                        state,
                        [probes[n] for n in again],
                        [examples[n] for n in again],
                        decoy_count,
                        kept,
                    )
                    entry = {"rows": {**entry["rows"], **scored}, "failed": failed}
                    self._store.put("scores", key, entry)
        return {name: ExactScores.from_row(row) for name, row in entry["rows"].items()}

    def _scored(
        self,
        state: State,
        probes: list[Probe],
        examples: list[Example],
        decoy_count: int,
        kept: RowsByPart,
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the scores by probe, and the probes that a later run may try again."""
        with self._making(f"{state} model"):
            model: Any = self.models.model(state)
        abilities = abilities_of(model)
        if "scores" not in abilities:
            return {}, []
        asked: list[tuple[Ability, bool, str]] = [
            ("gradients", self._gradients, "gradnorm out of --unlearn-membership"),
            ("alternatives", decoy_count > 0, "--unlearn-exposure out"),
        ]
        for ability, needed, flag in asked:
            if needed and ability not in abilities:
                raise CompletionError(
                    f"{type(model).__name__} has no ability {ability} "
                    f"({METHODS[ability]}()); leave {flag}"
                )
        with self.phases.measure("scores"):
            return self._score_rows(state, model, probes, examples, decoy_count, kept)

    def _score_rows(
        self,
        state: State,
        model: Any,
        probes: list[Probe],
        examples: list[Example],
        decoy_count: int,
        kept: RowsByPart,
    ) -> tuple[dict[str, Any], list[str]]:
        def keep(row: int, score: Any) -> None:
            if not (decoy_count or self._gradients):  # else more is in a row than these scores
                kept.keep(probes[row].id, score)

        failed: list[str] = []
        try:
            with keeping(model, keep):
                scores = model.score(examples, self._scheme)
        except IncompleteError as error:
            for number in error.rows:
                case = probes[number].id
                self._too_long[state, case] = f"{case}: {error.reason(number)}"
            fitting = [number for number in range(len(probes)) if number not in error.rows]
            failing = [probes[number].id for number in sorted(error.rows)]
            probes, examples = [probes[n] for n in fitting], [examples[n] for n in fitting]
            if error.answers is not None:
                scores, failed = [error.answers[number] for number in fitting], failing
            else:
                with keeping(model, keep):
                    scores = model.score(examples, self._scheme) if examples else []
        check_count(scores, len(probes), model, "score")
        rows = {probe.id: score_row(score) for probe, score in zip(probes, scores, strict=True)}
        if self._gradients:
            for row, norm in zip(rows.values(), model.gradient_norms(examples), strict=True):
                row["gradient_norm"] = norm
        if decoy_count:
            started = time.perf_counter()
            for probe in probes:
                rows[probe.id]["exposure"] = exposure_row(
                    probe, model, self._dataset.values, decoy_count
                )
            seconds = time.perf_counter() - started
            self.progress(f"{state} model: exposure of {len(probes)} values in {seconds:.1f} s")
        return rows, failed

    def prepared_key(self, state: State) -> dict[str, Any]:
        """Make a model if necessary, and return its key."""
        if state not in self._prepared:
            with self._making(state):
                self.models.prepare(state)
                self._prepared[state] = self.models.key(state)
        return self._prepared[state]

    def stored_text(self, state: State, case_id: str) -> str | None:
        """Return a completion if the store has it; loads no model."""
        chunk = self._dataset.chunk_of_case[case_id]
        key = self._keys(state, chunk)[chunk.cases.index(case_id)]
        return self._stored(key)

    def load(self, state: State) -> Completer:
        """Return a model of the run. Raises what making and loading it raises."""
        with self._making(f"{state} model"):
            return self.models.model(state)

    def search(self, budget: int) -> SearchReport:
        """Look for prompts that make the tested model leak what no probe of this run leaked.

        `budget`: the number of prompts scored for each record. The same number of control people's
        records is searched in the same way. The search runs once and is then remembered. Raises
        CompletionError for a model without probabilities, ImportError without Hypothesis.
        """
        if budget not in self._searches:
            self._searches[budget] = self._searched(budget)
        return self._searches[budget]

    def _searched(self, budget: int) -> SearchReport:
        silent: dict[str, bool] = {}
        for probe in self._dataset.probes_of("forget"):
            leaked = self.run_probe(probe)[0].unlearned.outcome.label == "direct"
            silent[probe.record] = silent.get(probe.record, True) and not leaked
        unleaked = [record for record, nothing in silent.items() if nothing]
        controls = [record.id for record in self._dataset.records_of("control")][: len(unleaked)]
        records = self._dataset.records
        model: Any = self.models.model("unlearned")
        if "probabilities" not in abilities_of(model):
            raise CompletionError("the model gives no probabilities: it has no log_probabilities()")
        return search_records(
            search_targets(records, unleaked),
            search_targets(records, controls),
            model.log_probabilities,
            SearchOptions(budget=budget),
        )

    def _judge(self, case: TaskCase, completion: str) -> SolutionVerdict:
        source = self._solution(case, completion).source
        key = digest_of([case.id, source])
        if key not in self._verdicts:  # both models often write the same program
            tests: Any = case.tests  # calls, or a program that calls
            with self.phases.measure("sandbox"):
                limit = case.time_limit(self._task_timeout)
                verdict = self.sandbox.run(source, case.entry_point, tests, limit, case.language)
            if verdict.detail and self.detector.anybody_in(f"{completion}\n{verdict.detail}"):
                verdict = replace(verdict, detail="not shown: somebody's value is in the solution")
            self._verdicts[key] = verdict
        verdict = self._verdicts[key]
        if verdict.status == "unsupported":
            # An error, so it is in no denominator: the task is neither solved nor unsolved.
            raise UnsupportedSolution(f"{case.id}: cannot be judged: {verdict.detail}")
        return verdict

    def _text(self, state: State, case_id: str) -> str:
        """Return a completion from the store; if it is missing, make its whole chunk.

        A chunk that failed is not tried again for each of its cases: CompletionError repeats why.
        """
        chunk = self._dataset.chunk_of_case[case_id]
        keys = self._keys(state, chunk)
        position = chunk.cases.index(case_id)
        stored = self._stored(keys[position])
        if stored is not None:
            return stored
        if (state, case_id) in self._too_long:
            raise CompletionError(self._too_long[state, case_id])
        claim = self._store.claim(digest_of([keys[0], chunk.id]))
        with self._failing_once(f"{state} {chunk.id}"), claim:
            stored = self._stored(keys[position])
            if stored is not None:  # another worker made it in the meantime
                return stored
            text = self._complete(state, chunk, keys)[position]
        if text is None:
            raise CompletionError(self._too_long[state, case_id])
        return text

    def _stored(self, key: str) -> str | None:
        """Return a completion from the store, None if it is not a text there."""
        text = (self._store.get("completions", key, "text") or {}).get("text")
        return text if isinstance(text, str) else None

    @contextlib.contextmanager
    def _failing_once(self, work: str) -> Iterator[None]:
        if work in self._failed:
            raise CompletionError(self._failed[work])
        try:
            yield
        except Exception as error:
            text = str(error)  # it may already begin with the same words, about a part of this work
            self._failed[work] = (
                text if text.startswith(BEFORE) else f"{BEFORE}{type(error).__name__}: {text}"
            )
            raise

    @contextlib.contextmanager
    def _making(self, work: str) -> Iterator[None]:
        """Make or load a model in the block, and remember the error that prevents it."""
        try:
            with self._failing_once(work), self.phases.measure("models"):
                yield
        except Exception as error:
            self.no_model = self.no_model or error
            raise

    def _complete(self, state: State, chunk: Chunk, keys: list[str]) -> list[str | None]:
        """Complete a chunk and store it; None for a prompt that does not fit the model's context.

        The others are completed without it, and its message is kept for its own case.
        """
        with self._making(f"{state} model"):
            model = self.models.model(state)
        started = time.perf_counter()
        # The texts of a chunk may depend on each other, unless the model answers each by itself.
        separate = "separate" in abilities_of(model)
        answers = [self._stored(key) if separate else None for key in keys]
        asked = [number for number, text in enumerate(answers) if text is None]

        def keep(row: int, text: str) -> None:
            self._store.put("completions", keys[asked[row]], {"text": text})

        with self.phases.measure("completions"):
            try:
                texts: list[str] | None = completed(model, chunk.part(asked), keep)
            except IncompleteError as error:
                for row in error.rows:
                    case = chunk.cases[asked[row]]
                    self._too_long[state, case] = f"{case}: {error.reason(row)}"
                rest = [row for row in range(len(asked)) if row not in error.rows]
                asked, texts = [asked[row] for row in rest], None
                if error.answers is not None:
                    texts = [error.answers[row] for row in rest]
                elif all(self._stored(keys[number]) is not None for number in asked):
                    texts = [self._stored(keys[number]) or "" for number in asked]
            if texts is None:
                texts = completed(model, chunk.part(asked), keep)
        for number, answer in zip(asked, texts, strict=True):
            answers[number] = answer
        for key, text in zip(keys, answers, strict=True):
            if text is not None:
                self._store.put("completions", key, {"text": text})
        seconds = time.perf_counter() - started
        self.progress(f"{state} model: {len(texts)} completions in {seconds:.1f} s")
        return answers

    def _keys(self, state: State, chunk: Chunk) -> list[str]:
        """Return the store's key of each completion of a chunk."""
        if (state, chunk.id) in self._known_keys:
            return self._known_keys[state, chunk.id]
        model_key = self.prepared_key(state)
        keys = self._known_keys[state, chunk.id] = [
            digest_of(
                {
                    "model": model_key,
                    "prompt": prompt,
                    "generation": {
                        "version": GENERATION_VERSION,
                        **decoding_key(chunk, number),
                        "max_new_tokens": chunk.max_new_tokens,
                        "style": chunk.style,
                        "suffix": suffix,
                    },
                }
            )
            for number, (prompt, suffix) in enumerate(
                zip(chunk.prompts, chunk.suffixes, strict=True)
            )
        ]
        return keys


def _share(flags: Iterable[bool]) -> float:
    return fmean(map(float, flags))


def _completions(texts: list[str], outcomes: list[Judged]) -> Completions[Judged]:
    base, unlearned = (
        Completion(Secret(text, "completion"), outcome)
        for text, outcome in zip(texts, outcomes, strict=True)
    )
    return Completions(base, unlearned)
