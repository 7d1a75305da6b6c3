"""What a run was made from and what it cost: digests, settings, the manifest. It contains no
personal value."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_unlearn import __version__
from pytest_unlearn.core.errors import UnlearningError
from pytest_unlearn.core.secret import REDACTED, without
from pytest_unlearn.core.store import Store, StoreError, digest_of, file_sha256
from pytest_unlearn.people.generate import facts_of, made_by
from pytest_unlearn.people.record import records_digest
from pytest_unlearn.run.erasure_requests import Requests
from pytest_unlearn.run.settings import names_of_role
from pytest_unlearn.unlearning.methods import MethodChoice

if TYPE_CHECKING:
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Models, State
    from pytest_unlearn.run.settings import Settings
    from pytest_unlearn.tasks.format import TaskCase

_LIBRARIES = ("pytest-unlearn", "torch", "transformers", "tokenizers", "peft", "accelerate")
_PACKAGES = ("pytest", "pytest-xdist", "torch", "transformers", "tokenizers", "peft")
# `ru_maxrss` counts KiB on Linux and bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@runtime_checkable
class _Written(Protocol):
    """An object that keeps the text that the user wrote, such as a gate."""

    @property
    def text(self) -> str: ...


def provenance(settings: Settings, dataset: Dataset) -> dict[str, dict[str, str]]:
    """Return digests of the data, settings and versions, each by name, as text."""
    return {
        "data": {
            "records": records_digest(dataset.records),
            **({"people": made_by(settings.people)} if settings.people else {}),
            "tasks": tasks_digest(dataset.tasks),
            "probes": ",".join(dict.fromkeys(probe.family for probe in dataset.probes)),
        },
        "settings": {
            # Data is covered by its digests; settings that judge or show change no result.
            name: _text(getattr(settings, name))
            for name in names_of_role("model", "measure")
        },
        "versions": {"python": platform.python_version(), **installed_versions(_LIBRARIES)},
    }


# Settings that make another model from the same data; trying several means picking the best.
_CHOICES = ("model", "method", "plant", "baseline", "adapter", "revision", "held_out", "seed")


def note_try(settings: Settings, facts: dict[str, dict[str, str]]) -> int:
    """Note in the store that a model was judged on these data; return how many were so far.

    `facts` are those of `provenance`. The same model again, or other gates, do not count as a try.
    """
    data = digest_of([facts["data"]["records"], facts["data"]["tasks"]])
    tried = digest_of({name: facts["settings"][name] for name in _CHOICES})
    models = {tried}
    store = Store(settings.store, settings.replay)
    # A count that cannot be stored must not prevent the verdict.
    with contextlib.suppress(StoreError, UnlearningError), store.claim(f"judged-{data}"):
        models |= set((store.get("judged", data, "models") or {"models": ()})["models"])
        if store.writable:  # a read-only store still serves replays
            store.put("judged", data, {"models": sorted(models)})
    return len(models)


def tasks_digest(tasks: Iterable[TaskCase]) -> str:
    """Return the digest of tasks: their prompts and tests."""
    return digest_of([[c.id, c.prompt, c.entry_point, repr(c.tests)] for c in tasks])


def _text(value: Any) -> str:
    """Return a setting as text: a method as its name and options, a path as its last part."""
    if isinstance(value, Path | Requests):
        return value.name
    if not isinstance(value, MethodChoice):
        return str(value)
    if value.options is None:
        return value.name
    options = dataclasses.asdict(value.options)
    return f"{value.name}:{','.join(f'{key}={item}' for key, item in options.items())}"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):  # a source tree may have no metadata
            versions[name] = version(name)
    return versions


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """When a run began: seconds of the monotonic clock, and the time in UTC."""

    ticks: float
    moment: datetime

    @classmethod
    def now(cls) -> Clock:
        """Return a clock that starts now."""
        return cls(time.perf_counter(), datetime.now(UTC))

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self.ticks


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """What one kind of work cost in one process or, added up, in all.

    `seconds`: wall time, summed over processes that worked side by side. `memory`: the most bytes
    that a process had held in RAM by the end of the phase. `gpu_memory`: the most bytes that torch
    had allocated on the GPU by then, None without one. `gpu`: that GPU's name.
    """

    name: str
    seconds: float
    memory: int
    gpu_memory: int | None = None
    gpu: str | None = None


class Phases:
    """Adds up phases by name, in the order in which they first appeared."""

    def __init__(self) -> None:
        self._phases: dict[str, Phase] = {}

    def all(self) -> list[Phase]:
        """Return the phases so far."""
        return list(self._phases.values())

    def add(self, phase: Phase) -> None:
        """Add a phase: seconds add up, and the largest memory counts."""
        known = self._phases.get(phase.name, dataclasses.replace(phase, seconds=0.0))
        gpu = [m for m in (known.gpu_memory, phase.gpu_memory) if m is not None]
        self._phases[phase.name] = Phase(
            phase.name,
            known.seconds + phase.seconds,
            max(known.memory, phase.memory),
            max(gpu, default=None),
            phase.gpu or known.gpu,
        )

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add what the block costs, even if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.add(Phase(name, seconds, peak_memory(), *gpu_in_use()))


def peak_memory() -> int:
    """Return the most bytes that this process has held in RAM.

    On Linux the kernel's count for `getrusage` survives `exec`, so a process would look as large as
    the one that started it.
    """
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def gpu_in_use() -> tuple[int, str] | tuple[None, None]:
    """Return the most bytes that torch has allocated on this process's GPU, and the GPU's name.

    torch is not imported for this: a process that has not imported it holds nothing on a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None, None
    return int(torch.cuda.max_memory_allocated()), str(torch.cuda.get_device_name())


def manifest(
    settings: Settings,
    dataset: Dataset,
    models: Models,
    phases: Phases,
    clock: Clock,
    command: Sequence[str],
    measured: bool,
) -> dict[str, Any]:
    """Return the manifest as JSON data.

    `models` are asked for their keys (digests of weights, tokenizer and adapter, device, dtype,
    libraries) only if something was `measured`: before that, they may not exist yet. `memory` and
    `gpu_memory` are the most bytes that one process held; the host's `gpus` are the kinds of GPU
    that models ran on.
    """
    spent = phases.all()
    held, gpu = gpu_in_use()
    gpu_memory = [m for m in (held, *(p.gpu_memory for p in spent)) if m is not None]
    return {
        "pytest_unlearn": __version__,
        "started": clock.moment.isoformat(timespec="seconds"),
        "seconds": round(clock.seconds, 3),
        "memory": max([peak_memory(), *(phase.memory for phase in spent)]),
        "gpu_memory": max(gpu_memory, default=None),
        "phases": [
            {**dataclasses.asdict(phase), "seconds": round(phase.seconds, 3)} for phase in spent
        ],
        "models": _model_keys(settings, dataset, models) if measured else {},
        "data": _data(settings, dataset),
        "settings": {
            item.name: _plain(getattr(settings, item.name))
            for item in dataclasses.fields(settings)
            if item.name != "fingerprint_key"
        },
        "command": shlex.join(
            ["pytest", *(redacted(part, settings.fingerprint_key, dataset) for part in command)]
        ),
        "versions": installed_versions(_PACKAGES),
        "host": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": platform.machine(),
            "gpus": sorted({name for name in (gpu, *(p.gpu for p in spent)) if name}),
        },
    }


def redacted(text: str, key: str | None, dataset: Dataset) -> str:
    """Return an outside text (a command line, an error) without key, values and names."""
    if key:
        text = text.replace(key, REDACTED)
    return without(text, dataset.personal)


def _model_keys(settings: Settings, dataset: Dataset, models: Models) -> dict[str, Any]:
    states: list[State] = ["base", "unlearned"]
    if settings.retrained is not None:
        states.append("retrained")
    # The keys of a conftest's models may contain anything.
    return {
        state: _each_text(
            models.key(state), lambda text: redacted(text, settings.fingerprint_key, dataset)
        )
        for state in states
    }


def _each_text(data: Any, change: Callable[[str], str]) -> Any:
    """Return JSON data with each text in it changed."""
    if isinstance(data, dict):
        return {change(key): _each_text(item, change) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_each_text(item, change) for item in data]
    return change(data) if isinstance(data, str) else data


def _data(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """Return digests of the data.

    One digest covers all records, since that of a single short value could be guessed.
    """
    files = [
        path
        for name in ("forget", "retain", "control", "tasks", "rehearsed")
        for path in getattr(settings, name)
        if isinstance(path, Path)  # not the name of a bundled set
    ]
    files = [*(settings.requests.files if settings.requests else ()), *files]
    division, rehearsed = dataset.division, dataset.rehearsed(settings.method)
    people = facts_of(settings.people, dataset.records) if settings.people else None
    return {
        "records": records_digest(dataset.records),
        **({"people": people} if people else {}),
        "tasks": tasks_digest(dataset.tasks),
        "counts": {
            "forget": len(dataset.probes_of("forget")),
            "retain": len(dataset.probes_of("retain")),
            "control": len(dataset.probes_of("control")),
            "tasks": len(dataset.tasks),
        },
        "held_out": {
            "share": division.share,
            "people": len(division.people),
            "people_trained": len(division.trained_people),
            "tasks": len(division.tasks),
            "rehearsed_cases": len(rehearsed),
            "rehearsed": digest_of(sorted(rehearsed)),
        },
        "files": [{"name": path.name, "sha256": file_sha256(path)} for path in files],
    }


def _plain(value: Any) -> Any:
    """Return a setting as JSON data: gates as they were written, functions by name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, _Written):
        return value.text
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return getattr(value, "__name__", None) or str(value)
