"""The list of metrics for people: `--unlearn-metrics`, and the tables in the documentation."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_unlearn.gates.estimates import percent, units_needed
from pytest_unlearn.gates.judging import CONFIDENCE
from pytest_unlearn.gates.metrics import METRICS, Metric
from pytest_unlearn.gates.profiles import DEFAULT, PROFILES

# Two limits of each type, to show what they need.
_EXAMPLES = {
    "rate": (0.05, 0.01),
    "loss": (0.03, 0.01),
    "floor": (0.95, 0.99),
    "ratio": (0.9, 0.95),
    "drop": (0.5, 0.9),
}
_PERFECT = {
    "rate": "without an event",
    "loss": "without a loss",
    "floor": "without a failure",
    "ratio": "that lose nothing",
    "drop": "that stop leaking",
}


def size_rule(metric: Metric, confidence: float = CONFIDENCE) -> str:
    """Return how many people or tasks a gate on this metric needs at the least."""
    if metric.type == "maximum":
        return "decided by counting; more than 2^limit decoys"
    who = "tasks" if metric.split is None else "people"
    sizes = ", ".join(
        f"{units_needed(metric.type, limit, confidence)} for {limit:.0%}"
        for limit in _EXAMPLES[metric.type]
    )
    return f"{sizes} ({who} {_PERFECT[metric.type]})"


def metric_lines(confidence: float = CONFIDENCE) -> Iterator[str]:
    """Yield the list of metrics and profiles as plain text."""
    bound = f"{percent(confidence)} bound"
    yield f"Metrics of --unlearn-gate, each judged on a one-sided {bound}; counted leaks can be"
    yield "held to 0 as well, which one leak fails:"
    for metric in METRICS.values():
        yield ""
        yield f"{metric.form}{metric.operator}LIMIT"
        yield f"    {metric.about}"
        yield f"    unit    {metric.unit}"
        yield f"    needs   {size_rule(metric, confidence)}"
        yield f"    source  {metric.source}"
    yield ""
    yield "Profiles of --unlearn-profile:"
    for profile in (*PROFILES.values(), DEFAULT):
        yield ""
        yield f"{profile.name}: {'  '.join(profile.gates)}"
        yield f"    {profile.about}"


def metric_table() -> str:
    """Return the metrics as a Markdown table."""
    lines = ["| gate | meaning | unit | needs at least | source |", "|---|---|---|---|---|"]
    lines += [
        f"| `{metric.form}{metric.operator}` | {metric.about} | {metric.unit} | "
        f"{size_rule(metric)} | {metric.source} |"
        for metric in METRICS.values()
    ]
    return "\n".join(lines)


def profile_table() -> str:
    """Return the profiles as a Markdown table."""
    lines = ["| profile | gates |", "|---|---|"]
    lines += [
        f"| `{profile.name}` | {', '.join(f'`{gate}`' for gate in profile.gates)} |"
        for profile in PROFILES.values()
    ]
    return "\n".join(lines)
