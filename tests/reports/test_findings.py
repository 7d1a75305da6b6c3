"""Five sentences at the head of the page, made from a run's own facts, and its words explained."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_unlearn.gates.case_rows import ProbeRow
from pytest_unlearn.reports.html import page
from tests.support.results import make


def test_five_sentences_of_a_run() -> None:
    tested, came_out, sampled, attacked, left = page.sentences(make())
    assert tested.startswith("This run tested tiny, unlearned by ga+kl. It is a small model")
    assert "20 prompts (direct) for values of 10 people" in came_out
    assert "brought out 4 of these values, and 4 real values of another kind" in came_out
    assert "7 (70.0%) of 10 programming tasks were solved (9 (90.0%) by the base)" in came_out
    assert re.search(r"of 20 values, \d+\.\d+% with 1 and \S+ with 1,000 and", sampled)
    assert "of people the model never saw" in sampled
    assert attacked.startswith("No attack was tried")
    assert "people like them with 95% confidence" in left
    assert left.endswith("values of kinds other than email, phone.")


@pytest.mark.parametrize(
    ("run", "number", "said"),
    [
        (
            {"model": "org/coder", "method": "none"},
            0,
            "This run tested org/coder, as it is. The results",
        ),
        ({"method": "none", "baseline": "old"}, 0, "tiny, compared with old. It is a small model"),
        (
            {"population": "requests"},
            4,
            "The people are everybody who asked, so the results say nothing",
        ),
        ({"confidence": 0.9}, 4, "with 90% confidence"),
    ],
)
def test_sentences_follow_the_facts(run: dict[str, object], number: int, said: str) -> None:
    assert said in page.sentences(make(**run))[number]


def test_a_model_without_scores() -> None:
    """What is not known is said not to be known."""
    result = make()
    blind = tuple(
        replace(case, row=replace(case.row, base_exact=None, unlearned_exact=None))
        if isinstance(case.row, ProbeRow)
        else case
        for case in result.cases
    )
    result = replace(result, cases=blind)
    assert "is unknown" in page.sentences(result)[2]
    assert page.beside_gates(result) == []
    nobody = replace(result, cases=())
    assert "No prompt asked for people to be forgotten" in page.sentences(nobody)[1]


def test_what_stands_beside_the_gates() -> None:
    head, *rows = page.beside_gates(make())
    assert head == ["beside the gates", "base", "tested", "never seen"]
    assert [row[0] for row in rows[:3]] == ["leak@1", "leak@1,000", "leak@1,000,000"]
    assert re.fullmatch("membership AUC, (loss|min_k)", rows[3][0])


def test_the_page_begins_with_them() -> None:
    """Before the gates; and every linked word has its meaning on the page."""
    text = page.render(make())
    found = [text.index(part[:30]) for part in page.sentences(make())]
    assert found == sorted(found)
    assert found[-1] < text.index("<table") < text.index("leak@1,000")
    linked = set(re.findall(r'href="#(term-\w+)"', text))
    assert {"term-bound", "term-size", "term-leakat", "term-auc", "term-direct"} <= linked
    assert linked <= set(re.findall(r'id="(term-\w+)"', text))
    assert "20 (10)" not in text or "in parentheses" in text
