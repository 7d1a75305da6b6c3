"""A policy of five words whose logits are a table: every loss on it can be computed by hand.

The logits after word `i` are row `i` of the table, whatever came before: what a batch gives is a
sum over pairs of neighbouring words, which plain Python can take.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from pytest_unlearn.models.batches import IGNORED, Batch, Encoded, collate

POLICY = [
    [0.3, -0.2, 1.1, 0.0, 0.4],
    [1.0, 0.5, 2.0, -1.0, 0.2],
    [0.1, 0.9, -0.3, 1.5, 0.7],
    [-0.5, 0.0, 0.6, 0.2, 2.2],
    [0.8, 1.2, 0.3, -0.7, 0.0],
]
BASE = [
    [0.0, 0.1, 0.9, 0.2, 0.3],
    [0.4, 0.6, 2.4, -0.5, 0.1],
    [0.0, 0.2, -0.1, 2.5, 0.3],
    [-0.2, 0.3, 0.1, 0.4, 3.0],
    [0.5, 1.9, 0.2, -0.1, 0.6],
]
X = IGNORED
# Two values of unequal length, one of them with text after it, and padding in the second row.
FORGET = [Encoded([1, 2, 3, 4, 1], [X, X, 3, 4, X]), Encoded([2, 4, 1], [X, 4, X])]
ALTERNATES = [Encoded([1, 2, 0, 1, 1], [X, X, 0, 1, X]), Encoded([2, 0, 1], [X, 0, X])]
RETAIN = [Encoded([4, 1, 2], [X, 1, 2]), Encoded([3, 3, 4, 2], [X, X, 4, 2])]


class Body(torch.nn.Module):
    """Runs a function as a model's body."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    def forward(self, **inputs: Any) -> Any:
        return self.run(**inputs)


class Inner(torch.nn.Module):
    """Body and head, as transformers puts them together."""

    base_model_prefix = "model"
    config = SimpleNamespace()

    def __init__(self, run: Any, head: torch.nn.Module) -> None:
        super().__init__()
        self.model = Body(run)
        self.head = head

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=self.head(self.model(**inputs).last_hidden_state))


class Bigram(torch.nn.Module):
    """Looks logits up in its table, or in the base's while its adapter is off."""

    def __init__(self, table: Any = POLICY, base: Any = BASE) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table))
        self.base_table = torch.tensor(base)
        self.off = False
        # The passes of the body: (adapter off?, with gradient?, rows).
        self.calls: list[tuple[bool, bool, int]] = []
        head = torch.nn.Linear(len(POLICY), len(POLICY), bias=False)
        head.weight = torch.nn.Parameter(torch.eye(len(POLICY)), requires_grad=False)
        # In a list, so that its head is no parameter of the policy.
        self._inner = [Inner(self._body, head)]

    def get_base_model(self) -> Any:
        return self._inner[0]

    def _body(self, input_ids: torch.Tensor, **others: Any) -> Any:
        self.calls.append((self.off, torch.is_grad_enabled(), len(input_ids)))
        table = self.base_table if self.off else self.table
        return SimpleNamespace(last_hidden_state=table[input_ids])

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.off = True
        yield
        self.off = False


def batch(rows: list[Encoded]) -> Batch:
    """Padded with word 0."""
    return collate(rows, 0)


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def pairs(rows: list[Encoded]) -> list[list[tuple[int, int]]]:
    """Return for each row the (word before, word learnt) of its learnt words."""
    return [
        [(row.ids[t - 1], row.ids[t]) for t in range(1, len(row.ids)) if row.labels[t] != IGNORED]
        for row in rows
    ]


def flat(rows: list[Encoded]) -> list[tuple[int, int]]:
    return [pair for row in pairs(rows) for pair in row]


def mean(numbers: Any) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def nll(table: Any, before: int, word: int) -> float:
    return -math.log(softmax(table[before])[word])


def mean_nll(table: Any, rows: list[Encoded], bound: float = math.inf) -> float:
    return mean(min(nll(table, b, w), bound) for b, w in flat(rows))


def sums(table: Any, rows: list[Encoded]) -> list[float]:
    return [sum(nll(table, b, w) for b, w in row) for row in pairs(rows)]


def kl(before: int) -> float:
    p, q = softmax(BASE[before]), softmax(POLICY[before])
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean_kl(rows: list[Encoded]) -> float:
    return mean(kl(before) for before, _ in flat(rows))


def neg_log_sigmoid(x: float) -> float:
    return math.log(1 + math.exp(-x))
