"""The whole job without pytest: unlearn, probe, judge. For notebooks and scripts."""

from __future__ import annotations

from collections.abc import Callable

from pytest_unlearn.core.store import Store
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.models import Models
from pytest_unlearn.run.pair_run import PairRun
from pytest_unlearn.run.provenance import Clock
from pytest_unlearn.run.result import Result
from pytest_unlearn.run.settings import Pair, Settings
from pytest_unlearn.run.training_checks import check_training


def measure(
    settings: Settings,
    progress: Callable[[str], None] = lambda line: None,
    models: Models | None = None,
) -> Result:
    """Run every case of these settings and return the judged result, which reports render.

    What the store has is not made again. `progress` gets a line for each step and each warning.
    `models`: other models than the settings name.
    Raises UserError before a model is loaded where a setting or a file is wrong; an error in a
    case ends the job, and what was measured before it is in the store.
    """
    clock = Clock.now()
    Store(settings.store, settings.replay).sweep()
    dataset = Dataset(settings)
    for warning in check_training(settings, dataset):
        progress(warning)
    engine = Measuring(settings, dataset, progress, models=models)
    run = PairRun(Pair(settings.model, settings.method.name, True, settings), dataset, engine)
    try:
        engine.models.resolve()
        if settings.check_tasks:
            for note in engine.check_tasks():
                progress(note)
        for probe in dataset.probes:
            run.rows[probe.id] = engine.run_probe(probe)[1]
        for case in dataset.tasks:
            run.rows[case.id] = engine.run_task(case)[1]
        for attack in run.attacked.attacks:
            run.rows |= {row.id: row for row in run.attacked.rows(attack)}
    finally:
        engine.close()
    run.seen.update(case.id for case in run.cases)
    run.judge(interrupted=None)
    return run.build(clock, command=())
