"""Lines of the terminal about the run itself: what it cost, what was written, what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_unlearn.reports.formats import Report
from pytest_unlearn.reports.github import annotate
from pytest_unlearn.reports.result import Result

SHOWN = (
    "unlearn: VALUES ARE SHOWN (--unlearn-show-values): reports and failing tests will hold "
    "personal data; keep them where only those may read who may read the data"
)


def cost_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield wall time and peak memory, of the run and of each phase."""
    phases = ", ".join(
        f"{phase['name']} {phase['seconds']:.1f} s ({_memory(phase)})"
        for phase in manifest["phases"]
    )
    yield (
        f"time {manifest['seconds']:.1f} s, memory {_memory(manifest)}"
        + (f"; {phases}" if phases else "")
    )


def written_lines(reports: Sequence[Report], unwritten: Sequence[str]) -> Iterator[str]:
    """Yield where reports stand, and which could not be written."""
    failed = {line.partition(": not written")[0] for line in unwritten}
    written = [f"{r.format.name} {r.path}" for r in reports if r.flag not in failed]
    if written:
        yield "reports: " + ", ".join(written)
    yield from unwritten


def annotation_lines(result: Result, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield GitHub's annotations where GitHub reads them."""
    if environment.get("GITHUB_ACTIONS") == "true":
        yield from annotate(result.gates, result.label)


def _memory(cost: Mapping[str, Any]) -> str:
    text = _bytes(cost["memory"])
    return text if cost["gpu_memory"] is None else f"{text}, GPU {_bytes(cost['gpu_memory'])}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
