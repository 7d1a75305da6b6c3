"""Unlearning alone, in one process or in several that share one model.

    accelerate launch --use_fsdp --num_processes 4 -m pytest_unlearn.train --unlearn-model=NAME ...
    pytest --unlearn-model=NAME ...

The first command, with the flags of the second, trains what a run needs and stores it; the run
finds it by key. Only one process runs tests, so the exit code that gates a release does not pass
through a launcher. The key does not include the number of processes, since each step is the same as
in one process, apart from rounding.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_unlearn.core.errors import UnlearningError, UserError, naming
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.session.options import is_active, refusals, take_extensions

if TYPE_CHECKING:
    from pytest_unlearn.run.models import ModelPair
    from pytest_unlearn.session.session import UnlearnSession

_ONE = "python -m pytest_unlearn.train"


def main() -> int:
    """Read pytest's command line, train, and return the exit code: 0, or nonzero for any error."""
    return int(pytest.main(sys.argv[1:], plugins=[_Training()]))


class _Training:
    """Takes the place of the test run."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int | None:
        if config.option.help or config.option.version:
            return None
        if int(os.environ.get("RANK", "0")) == 0:
            return _train(config)
        config.option.verbose = -1  # only one process shows progress and errors in flags
        try:
            return _train(config)
        except pytest.UsageError:
            return pytest.ExitCode.USAGE_ERROR


@refusals()
def _train(config: pytest.Config) -> int:
    """Train what the flags ask for. Raises pytest.UsageError before any model is loaded."""
    if not is_active(config):
        raise UserError("name a model, as in --unlearn-model=tiny")
    from pytest_unlearn.session.session import SESSION

    take_extensions(config)
    config._do_configure()  # as pytest's own --markers and --fixtures do
    try:
        return _trained(config.stash[SESSION])
    finally:
        if SESSION in config.stash:
            config.stash[SESSION].finish()
        config._ensure_unconfigure()


def _trained(session: UnlearnSession) -> int:
    from transformers.utils.logging import disable_progress_bar

    from pytest_unlearn.models.loading import ModelLoadError, resolve_device
    from pytest_unlearn.run.models import ModelPair
    from pytest_unlearn.unlearning import distributed

    if session.sweeps:
        raise UserError(
            "one model is trained by one method at a time; name one --unlearn-model and one "
            "--unlearn-method, and start again for the next (the run itself trains what "
            "--unlearn-requests asks for)"
        )
    settings, pair = session.settings, session.runs[0].engine.models
    if not isinstance(pair, ModelPair):
        raise UserError(
            "a conftest provides the models, or --unlearn-replay takes them from the store: these "
            "are not trained"
        )
    if settings.method.method is None and not settings.method.retrains and settings.plant is None:
        raise UserError(
            "there is nothing to train: write --unlearn-method=METHOD or --unlearn-plant"
        )
    _check_processes(settings)
    pair.resolve()
    if _started() > 1 and settings.plant and not pair.stored_planting():
        raise UserError(
            f"--unlearn-plant: several processes cannot plant; run `{_ONE}` without a launcher, "
            "with the same flags and --unlearn-method=none, first"
        )
    try:
        distributed.join(resolve_device(settings.device))
        if distributed.number() > 0:
            disable_progress_bar()  # type: ignore[no-untyped-call]
        pair.prepare("unlearned")
        if settings.retrained is not None and distributed.count() == 1:
            pair.prepare("retrained")
        if distributed.number() == 0:
            print(_summary(settings, pair, distributed.count()))
        distributed.leave()
    except (UnlearningError, UserError, ModelLoadError) as error:
        # Each process reports its own error: the others may not have it.
        print(f"ERROR (process {distributed.number()}): {error}", file=sys.stderr)
        return pytest.ExitCode.TESTS_FAILED
    return pytest.ExitCode.OK


def _check_processes(settings: Settings) -> None:
    """Raise UserError if the processes that a launcher started cannot train."""
    from pytest_unlearn.session.xdist import visible_gpus
    from pytest_unlearn.unlearning.distributed import check_launcher
    from pytest_unlearn.unlearning.method import check_processes

    count = _started()
    if count == 1:
        return
    method, options = settings.method.method, settings.method.options
    if method is None or options is None:
        raise UserError(
            f"--unlearn-method={settings.method.name}: {count} processes share the steps of an "
            f"unlearning, but there is none; run `{_ONE}` without a launcher"
        )
    with naming(f"--unlearn-method={method.name}"):
        check_processes(method, options, count)
    if settings.device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"--unlearn-device={settings.device}: each of {count} processes takes its own GPU; "
            "write cuda, cpu or auto"
        )
    check_launcher(
        os.environ, settings.device, settings.dtype, options.checkpointing, options.accumulate
    )
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", count)), visible_gpus()
    if settings.device != "cpu" and 0 < gpus < here:
        raise UserError(
            f"{here} processes on this machine need a GPU each, and there "
            f"{'is' if gpus == 1 else 'are'} {gpus}; start {gpus}, or write --unlearn-device=cpu"
        )


def _started() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _summary(settings: Settings, pair: ModelPair, count: int) -> str:
    """Return what was made, and what to do next."""
    from pytest_unlearn.unlearning.distributed import zero3

    checkpoint, planting = pair.stored_unlearning(), pair.stored_planting()
    how = " (ZeRO-3 by FSDP2)" if count > 1 and zero3(os.environ) else ""
    lines = [f"model {settings.model}  method {settings.method.name}  processes {count}{how}"]
    if planting:
        lines.append(
            f"planted in {planting.steps} steps ({planting.seconds:.0f} s): "
            f"{planting.leak_rate:.0%} of {planting.records} records come out"
        )
    if checkpoint:
        lines.append(
            f"unlearned in {checkpoint.steps} steps ({checkpoint.seconds:.0f} s): "
            f"{checkpoint.leak_rate:.0%} of the forget records come out, {checkpoint.kept:.0%} kept"
        )
    lines.append(f"in the store {settings.store}; run pytest with the same flags")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
