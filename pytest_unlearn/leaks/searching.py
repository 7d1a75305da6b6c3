"""Searching for prompts that leak: which records, over which prompts, and what may be shown.

A library without pytest; `leaks/search.py` climbs and `leaks/shrinking.py` makes prompts minimal.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.search import SearchReport, SearchResult, SearchSpace, SearchTarget
from pytest_unlearn.people.carriers import CARRIERS
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record, by_owner
from pytest_unlearn.probes.prompts import (
    KNOWLEDGE,
    WORDINGS,
    PromptError,
    PromptRecipe,
    Wording,
    ask,
    render,
)

# Under this name a search's report stands in a test report's `user_properties`.
SEARCH_PROPERTY = "unlearn_search"
# The true prefix shows a part of the value, so a prompt with it is no leak of the whole.
_KNOWLEDGE = tuple(level for level in KNOWLEDGE if level != "prefix")
_WORD = re.compile(r"\w+|[^\w\s]")


def search_targets(records: Sequence[Record], wanted: Iterable[str]) -> list[SearchTarget]:
    """Return what is searched for: carrier x knowledge x wording for each wanted record id.

    `records` are all records, of which those of the same person are shown as knowledge.
    """
    people = by_owner(records)
    by_id = {record.id: record for record in records}
    return [_target(by_id[row], people[by_id[row].owner]) for row in wanted]


def _target(record: Record, others: Sequence[Record]) -> SearchTarget:
    carriers = tuple(CARRIERS)

    def prompt(indices: tuple[int, ...]) -> Secret | None:
        carrier, knowledge, wording = indices
        recipe = PromptRecipe(carriers[carrier], _KNOWLEDGE[knowledge], WORDINGS[wording])
        try:
            return render(record, others, recipe)
        except PromptError:
            return None

    return SearchTarget(
        record.id, SearchSpace((carriers, _KNOWLEDGE, WORDINGS), prompt), record.value
    )


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """A search's report as rows without personal data, for other processes and for print."""

    report: dict[str, Any]
    found: list[dict[str, Any]]

    def as_json(self) -> str:
        """Return the summary as JSON text."""
        # Infinite numbers of samples are written as null: JSON has no infinity.
        return json.dumps(_finite({"report": self.report, "found": self.found}))

    @classmethod
    def from_json(cls, text: str) -> SearchSummary:
        """Read what `as_json` wrote."""
        return cls(**json.loads(text))


def summarise(report: SearchReport) -> SearchSummary:
    """Return the counts, and each leaking record with its minimal prompt in safe words."""
    return SearchSummary(
        report.as_row(),
        [
            {**result.as_row(), "prompt": safe_prompt(result)}
            for result in report.records
            if result.found
        ],
    )


def safe_prompt(result: SearchResult) -> str:
    """Return the minimal prompt with each word that may be personal as `<...>`.

    Only words stay that the same recipe shows of everybody, so that a piece of a name or a value
    that shrinking left over is not printed either.
    """
    prompt = result.minimal.prompt if result.minimal else result.prompt
    if prompt is None:
        return ""
    carrier = result.labels[0]
    wording = next(known for known in WORDINGS if known == result.labels[2])
    everybody = _common_words(carrier, wording)
    shown = _WORD.sub(lambda match: match[0] if match[0] in everybody else "<>", prompt.reveal())
    return re.sub(r"<>(?:[ .@_+/-]*<>)*", "<...>", shown)


@functools.cache
def _common_words(carrier: str, wording: Wording) -> frozenset[str]:
    """Return the words that the prompts of a recipe show of everybody, with all known kinds."""
    known: list[list[tuple[str, str]]] = [[], [("name", "")]]
    known += [[("name", ""), (field, "")] for field in KINDS]
    texts = (ask(facts, field, carrier, wording) for facts in known for field in KINDS)
    return frozenset(word for text in texts for word in _WORD.findall(text))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if value in (float("inf"), float("-inf")) else value
