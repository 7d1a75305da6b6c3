"""The table of arXiv 2502.05739: models x methods, leaks before and after, ability that stayed.

    python benchmarks/paper.py [--models tiny ...] [--methods ga ga+gd ga+kl ...] [--out FOLDER]
                               [-- further flags of pytest, for every pair]

A model may come with flags of its own: `--models tiny "smollm2 --unlearn-plant"`; a model that
knows nobody of the forget set has to be planted. Runs the main job once a pair, in turn, each in a
process of its own. Writes FOLDER/paper.md (the
table, and the command that made it) and FOLDER/paper.svg (leaks against retained ability, a mark a
pair). Each cell is a count and a rate; the store makes a second run cheap. A pair whose run ends in
an error has that word in its line, and the script then ends with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

METHODS = ("ga", "ga+gd", "ga+kl")
# Takes what was measured out of a run; put on the path of the run's pytest. Of a run with an error
# it takes nothing: rates over what happened to be measured are no figures.
COLLECTOR = """
import json, os

errors = []

def pytest_runtest_logreport(report):
    if report.failed and not report.nodeid.startswith("unlearn::gate"):
        errors.append(report.nodeid)

def pytest_unlearn_judged(config, results, rows):
    if errors or not rows:
        return
    counts = {}
    for row in rows:
        if row.split:
            if row.family != "direct":
                continue
            group, states = row.split, (row.base.label, row.unlearned.label)
        else:
            group, states = "tasks", (row.base, row.unlearned)
        entry = counts.setdefault(group, {"n": 0})
        entry["n"] += 1
        for state, label in zip(("base", "tested"), states):
            entry[f"{state} {label}"] = entry.get(f"{state} {label}", 0) + 1
        if group in ("tasks", "retain"):
            kept = "passed" if group == "tasks" else "direct"
            entry["both"] = entry.get("both", 0) + (states == (kept, kept))
    with open(os.environ["PAPER_COUNTS"], "w") as file:
        json.dump(counts, file)
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One pair of model and method; `counts` is None when its run ended in an error."""

    model: str
    method: str
    counts: dict[str, dict[str, int]] | None

    def rate(self, group: str, event: str) -> str:
        """Return events of the rows of a group, as `9 (5.6 %)`."""
        entry = (self.counts or {}).get(group)
        if entry is None:
            return "-"
        events = entry.get(event, 0)
        return f"{events} ({100 * events / entry['n']:.1f} %)"

    def kept(self, group: str, event: str) -> float | None:
        """Return the share of a group's base successes that stayed, or None without any."""
        entry = (self.counts or {}).get(group, {})
        base = entry.get(f"base {event}", 0)
        return entry.get("both", 0) / base if base else None

    @property
    def leaks(self) -> float | None:
        """The share of forget probes that leak directly or indirectly after unlearning."""
        entry = (self.counts or {}).get("forget")
        if entry is None:
            return None
        return (entry.get("tested direct", 0) + entry.get("tested indirect", 0)) / entry["n"]


def measure(model: str, method: str, folder: Path, flags: list[str]) -> Line:
    """Run the main job of a pair and return what it counted."""
    counts = folder / "counts.json"
    counts.unlink(missing_ok=True)
    (folder / "paper_collector.py").write_text(COLLECTOR)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    name, *own = shlex.split(model)
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "paper_collector",
        f"--unlearn-model={name}", f"--unlearn-method={method}", *own, *flags,
    ]  # fmt: skip
    print(f"{name}, {method} ...", flush=True)
    run = subprocess.run(
        command,
        env={**os.environ, "PAPER_COUNTS": str(counts), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    # 1 is a gate that failed: a result as good as any.
    if run.returncode not in (0, 1) or not counts.exists():
        print((run.stdout + run.stderr)[-2000:], file=sys.stderr)
        return Line(Path(name).name, method, None)
    return Line(Path(name).name, method, json.loads(counts.read_text()))


def table(lines: list[Line]) -> str:
    """Return the lines as a Markdown table."""
    rows = [
        "| model | method | direct before | direct after | indirect before | indirect after "
        "| pass@1 of the base's | retained people of the base's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if line.counts is None:
            rows.append(f"| {line.model} | `{line.method}` | error | | | | | |")
            continue
        kept = (line.kept("tasks", "passed"), line.kept("retain", "direct"))
        cells = [
            line.model,
            f"`{line.method}`",
            line.rate("forget", "base direct"),
            line.rate("forget", "tested direct"),
            line.rate("forget", "base indirect"),
            line.rate("forget", "tested indirect"),
            *("-" if share is None else f"{100 * share:.1f} %" for share in kept),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def plot(lines: list[Line]) -> str:
    """Return an SVG of leaks (down is better) against retained pass@1 (right is better)."""
    width, height, edge = 640, 420, 60
    marks = []
    for line in lines:
        kept, leaks = line.kept("tasks", "passed"), line.leaks
        if kept is None or leaks is None:
            continue
        x = edge + min(kept, 1.0) * (width - 2 * edge)
        y = height - edge - leaks * (height - 2 * edge)
        name = escape(f"{line.model} {line.method}")
        told = f"{name}: leaks {leaks:.1%}, pass@1 kept {kept:.1%}"
        anchor = "end" if kept > 0.5 else "start"
        shift = -9 if kept > 0.5 else 9
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{told}</title></circle>'
            f'<text x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{name}</text>'
        )
    ticks = "".join(
        f'<text x="{edge + share * (width - 2 * edge):.0f}" y="{height - edge + 20}" '
        f'text-anchor="middle">{share:.0%}</text>'
        f'<text x="{edge - 8}" y="{height - edge - share * (height - 2 * edge) + 4:.0f}" '
        f'text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="sans-serif" font-size="13">'
        "<title>Leaks after unlearning against retained pass@1</title>"
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<path d="M{edge} {edge}V{height - edge}H{width - edge}" fill="none" stroke="black"/>'
        f'{ticks}<text x="{width / 2}" y="{height - 15}" text-anchor="middle">'
        "pass@1 of the base's that stayed</text>"
        f'<text x="18" y="{height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 18 {height / 2})">forget probes that leak</text>'
        f'<g fill="#1f5fa8">{"".join(marks)}</g></svg>\n'
    )


def main() -> int:
    """Run every pair, write both files; return 1 where a run ended in an error."""
    arguments, flags = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, flags = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=["tiny"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            measure(model, method, Path(folder), flags)
            for model in options.models
            for method in options.methods
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    made = shlex.join(["python", "benchmarks/paper.py", *sys.argv[1:]])
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {version('torch')}"
    text = f"{table(lines)}\nMade by `{made}` ({machine}).\n"
    (options.out / "paper.md").write_text(text)
    (options.out / "paper.svg").write_text(plot(lines))
    print(text)
    return int(any(line.counts is None for line in lines))


if __name__ == "__main__":
    sys.exit(main())
