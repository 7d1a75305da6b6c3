"""Tables next to the gates: leaks in detail, exact extraction, coding, membership inference.

Text from outside (model names, methods, file names, prompts) is escaped, so that it is only text in
a page or a summary: Jinja2 escapes HTML itself, and what Markdown would read as markup is here.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pytest_unlearn.core.errors import plain
from pytest_unlearn.gates.case_rows import ProbeRow, Row, State, TaskRow
from pytest_unlearn.gates.estimates import pass_at, percent, share
from pytest_unlearn.gates.metrics import METRICS, ROW_FILTERS
from pytest_unlearn.leaks.exact import SAMPLES, ExactScores, mean_leak_at, mean_of
from pytest_unlearn.leaks.membership import Auc, attack_score, auc, privleak
from pytest_unlearn.leaks.outcome import LABELS

if TYPE_CHECKING:
    from jinja2 import Environment

# What Markdown, or HTML inside it, would read as markup.
_MARKDOWN = re.compile(r"([\\`*_\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w))")


def markdown(text: str) -> str:
    """Return Markdown that shows the text literally."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def code(text: str, cell: bool = False) -> str:
    """Return a text as Markdown code. `cell`: in a table, where a bar ends a cell even in code."""
    text = plain(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    shown = f"{fence}{pad}{text}{pad}{fence}"
    return shown.replace("|", "\\|") if cell else shown


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table in GitHub's Markdown; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _shown_in_html(autoescape: bool, value: Any) -> Any:
    """Spell out characters that a page cannot hold or that change the text's direction."""
    if not autoescape or not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(c if c in "\n\t" else plain(c) for c in value)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context
    from jinja2.nodes import EvalContext

    @pass_eval_context
    def finalize(context: EvalContext, value: Any) -> Any:
        return _shown_in_html(context.autoescape, value)

    environment = Environment(
        loader=PackageLoader("pytest_unlearn.reports"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "code": code, "plain": plain}
    return environment


def rendered(template: str, **context: Any) -> str:
    """Return a template of `reports/templates`, filled in; `*.html` is escaped."""
    return _environment().get_template(template).render(**context)


Table = list[list[str]]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def forget_rows(rows: Iterable[Row], family: str | None = None) -> list[ProbeRow]:
    """Return the rows of forget probes, of one family or of all."""
    return [
        row
        for row in rows
        if isinstance(row, ProbeRow) and row.split == "forget" and family in (None, row.family)
    ]


def rates_by(rows: Sequence[Row], key: str, confidence: float) -> Table:
    """Return direct and indirect rates of forget probes for each value of a row's attribute.

    Each line has the figures that gates on `leak.direct` and `leak.indirect` with that filter would
    be judged on; kinds and carriers are those of the direct family. Empty if there is only one
    group.
    """
    families = key in ("family", "knowledge")
    members = forget_rows(rows, None if families else "direct")
    name = "probe" if key == "family" else key
    groups = list(dict.fromkeys(ROW_FILTERS[name](row) for row in members))
    if len(groups) < 2:
        return []
    bound = f"{percent(confidence)} bound"
    table = [
        [
            name,
            "n",
            "direct base",
            "direct tested",
            bound,
            "indirect base",
            "indirect tested",
            bound,
        ],
    ]
    for group in groups:
        filters = {"probe": "all" if families else "direct", name: group}
        direct, indirect = (
            share(METRICS[metric], rows, filters, confidence)
            for metric in ("leak.direct", "leak.indirect")
        )
        if direct and indirect:
            base, tested, n, upper = direct.cells
            before, after, _, other = indirect.cells
            table.append([group, n, base, tested, upper, before, after, other])
    return table


def transitions(rows: Sequence[ProbeRow]) -> Table:
    """Return the matrix of outcomes: a row for each one of the base, a column for the tested model.

    Outcomes that occur on neither model are left out.
    """
    pairs = Counter((row.base.label, row.unlearned.label) for row in rows)
    before = [label for label in LABELS if any(b == label for b, _ in pairs)]
    after = [label for label in LABELS if any(a == label for _, a in pairs)]
    if not pairs:
        return []
    return [
        ["base \\ tested", *after],
        *([b, *(str(pairs[b, a]) for a in after)] for b in before),
    ]


# The two states of every run, and what tables call them.
PAIR: tuple[tuple[State, str], ...] = (("base", "base"), ("unlearned", "tested"))


def exact_scores(
    rows: Iterable[Row], split: str, state: State, family: str = "direct"
) -> list[ExactScores]:
    """Return the exact scores of a split's probes of one family in one state, if there are any."""
    return [
        scores
        for row in rows
        if isinstance(row, ProbeRow) and row.split == split and row.family == family
        if (scores := row.exact_scores(state)) is not None
    ]


def exact_table(rows: Sequence[Row], family: str = "direct") -> Table:
    """Return exact extraction of one family, for each split, before and after.

    Columns: greedy verdicts, leak@k for several k (the expected share of values that k samples
    would bring out), mean exact memorization, extraction strength and loss (nats per token), and
    mean exposure if it was asked for (an unknown value gets 1.44 bits). Empty if the models gave no
    scores.
    """
    table = [
        [
            "exact",
            "n",
            "greedy",
            *(f"leak@{k:g}" for k in SAMPLES),
            "memorized",
            "strength",
            "loss",
            "exposure (chance: 1.44)",
        ]
    ]
    for split in ("forget", "retain", "control"):
        for state, name in PAIR:
            if scored := exact_scores(rows, split, state, family):
                table.append(
                    [
                        f"{split} {name}",
                        str(len(scored)),
                        f"{mean_of(s.greedy for s in scored):.1%}",
                        *(f"{mean_leak_at(scored, k):.2%}" for k in SAMPLES),
                        f"{mean_of(s.exact_memorization for s in scored):.1%}",
                        f"{mean_of(s.strength for s in scored):.1%}",
                        f"{mean_of(s.loss for s in scored):.2f}",
                        _mean_exposure(scored),
                    ]
                )
    if len(table) == 1:
        return []
    if all(line[-1] == "-" for line in table[1:]):
        return [line[:-1] for line in table]
    return table


def _mean_exposure(scored: Sequence[ExactScores]) -> str:
    bits = [scores.exposure.bits for scores in scored if scores.exposure]
    return f"{sum(bits) / len(bits):.1f} bits" if bits else "-"


def relations(rows: Sequence[ProbeRow]) -> str:
    """Return whose values came out indirectly, on base and tested model, or an empty text."""
    lines = []
    for state, name in PAIR:
        counts = Counter(
            f"{outcome.relation} ({outcome.how})"
            for row in rows
            if (outcome := row.outcome(state)) and outcome.label == "indirect"
        )
        if counts:
            listed = ", ".join(f"{whose} {count}" for whose, count in counts.most_common())
            lines.append(f"{name}: {listed}")
    return "indirect leaks, whose value: " + "; ".join(lines) if lines else ""


def with_coding(
    table: Table,
    rows: Iterable[Row],
    two_states: bool,
    confidence: float,
) -> Table:
    """Return the table of what is shown beside the gates, with lines about tasks added.

    They are pass@k for each k, if there are several samples; pass@k of each set, if there are
    several; the share of degenerate answers; and the perplexity of the canonical solutions. (The
    share of complete programs is a metric, `parse.rate`.) `two_states`: base and tested model
    differ.
    """
    tasks = [row for row in rows if isinstance(row, TaskRow)]
    lines = [*_passed(tasks, two_states, confidence), *_degenerate(tasks), *_perplexity(tasks)]
    head = ["also measured", "base", "tested", "n", f"{percent(confidence)} bound"]
    return [*(table or [head] if lines else table), *lines]


def _passed(tasks: Sequence[TaskRow], two_states: bool, confidence: float) -> Table:
    if not tasks:
        return []
    ks = tasks[0].ks
    shares: list[tuple[str, Sequence[TaskRow], int]] = []
    if ks != (1,) or len(tasks[0].base_samples) > 1:
        shares += [(f"pass@{k}", tasks, k) for k in ks]
    shares += [(f"pass@{ks[0]}{group}", part, ks[0]) for group, part in _groups(tasks) if group]
    measured = (pass_at(name, part, k, confidence, two_states) for name, part, k in shares)
    return [[share.name, *share.cells] for share in measured if share]


def _groups(tasks: Sequence[TaskRow]) -> list[tuple[str, list[TaskRow]]]:
    """Return the rows of each set or file with its name; all rows, unnamed, if there is one."""
    groups: dict[str, list[TaskRow]] = {}
    for row in tasks:
        groups.setdefault(row.group, []).append(row)
    if len(groups) < 2:
        return [("", list(tasks))]
    return [(f" {name}", part) for name, part in groups.items()]


def _degenerate(tasks: Sequence[TaskRow]) -> Table:
    pairs = [
        (row.base_degenerate, row.unlearned_degenerate)
        for row in tasks
        if row.base_degenerate is not None and row.unlearned_degenerate is not None
    ]
    if not pairs:
        return []
    cells = [f"{fmean(column):.1%}" for column in zip(*pairs, strict=True)]
    return [["solutions: degenerate", *cells, str(len(pairs)), "-"]]


def _perplexity(tasks: Sequence[TaskRow]) -> Table:
    """Return exp of the mean loss per token, on solutions that both models scored."""
    lines = []
    for group, part in _groups([row for row in tasks if row.base_loss and row.unlearned_loss]):
        if not part:
            continue
        cells = []
        both = ([row.base_loss for row in part], [row.unlearned_loss for row in part])
        for of_state in both:
            losses = [loss for loss in of_state if loss is not None]
            mean = math.fsum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses)
            cells.append(f"{math.exp(min(mean, 700.0)):.4g}")
        lines.append([f"solutions: perplexity{group}", *cells, str(len(part)), "-"])
    return lines


_STATES: dict[State, str] = {"base": "base", "unlearned": "tested", "retrained": "retrained"}


def membership_table(rows: Iterable[Row], attacks: Sequence[str], confidence: float) -> Table:
    """Return the AUC of each attack on each model, forget against control people.

    1 is perfect recognition, 0.5 is chance; the two-sided interval treats a person's records as one
    cluster. With a retrained model there is also PrivLeak (percent of its AUC; below 0 if members
    are still recognizable, above 0 if they are recognizable by being too unlikely) and what its
    interval says. Empty without scored records on both sides.
    """
    aucs = membership_aucs(rows, attacks, confidence)
    table: Table = []
    for attack, by_state in aucs.items():
        if not table:
            table = [["membership AUC", "n", *(_STATES[state] for state in by_state)]]
            if "retrained" in by_state:
                table[0].append("PrivLeak")
        sizes = f"{by_state['base'].members}+{by_state['base'].nonmembers}"
        line = [attack, sizes, *map(_interval, by_state.values())]
        if "retrained" in by_state:
            line.append(_privleak(by_state["unlearned"], by_state["retrained"]))
        table.append(line)
    return table


def membership_aucs(
    rows: Iterable[Row], attacks: Sequence[str], confidence: float
) -> dict[str, dict[State, Auc]]:
    """Return each attack's AUC by model: `base`, `unlearned`, and `retrained` if it was scored.

    Empty without scored records on both sides.
    """
    scored = [
        row
        for row in rows
        if isinstance(row, ProbeRow) and row.family == "direct" and row.base_exact is not None
    ]
    members = [row for row in scored if row.split == "forget"]
    others = [row for row in scored if row.split == "control"]
    if not (members and others):
        return {}
    states = [s for s in _STATES if members[0].exact_scores(s) is not None]
    return {
        attack: {state: _auc(attack, state, members, others, confidence) for state in states}
        for attack in attacks
        if attack != "min_k++" or all(_scores(members[0], s).min_k_plus_plus for s in states)
    }


def _auc(
    attack: str,
    state: State,
    members: Sequence[ProbeRow],
    others: Sequence[ProbeRow],
    confidence: float,
) -> Auc:
    sides = [
        [attack_score(attack, _scores(row, state)) for row in side] for side in (members, others)
    ]
    # The same name in two of a user's files may be two people.
    owners = [[f"{row.split} {row.owner}" for row in side] for side in (members, others)]
    return auc(sides[0], sides[1], owners=(owners[0], owners[1]), confidence=confidence)


def _scores(row: ProbeRow, state: State) -> ExactScores:
    """Return a record's scores on one model, with the reference model's loss if there is one."""
    own = row.exact_scores(state)
    assert own is not None  # a model that scores one probe scores all of the direct family
    if row.retrained_exact is None:
        return own
    return replace(own, reference_loss=row.retrained_exact.loss)


def _interval(area: Auc) -> str:
    return f"{area.estimate:.2f} ({area.low:.2f} to {area.high:.2f})"


def _privleak(tested: Auc, retrained: Auc) -> str:
    if retrained.estimate == 1.0:
        return (
            "undefined: even the retrained model distinguishes them, so the texts themselves differ"
        )
    compared = privleak(tested, retrained)
    interval = f"{compared.low:+.0f} to {compared.high:+.0f}"
    return f"{compared.estimate:+.0f} % ({interval}): {compared.verdict}"
