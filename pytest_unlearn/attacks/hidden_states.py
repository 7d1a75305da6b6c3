"""What hidden states still know: a white-box attacker looks inside, whatever the output says.

The logit lens reads values off a middle layer: unlearning that acts in the last layers leaves them
there. A linear probe distinguishes people whom the model should forget from people it never saw.
Reports also show what both find for control people, in the base and in a retrained model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import (
    BOTH,
    Attack,
    AttackError,
    Reading,
    Stage,
    Target,
    unchanged,
)

if TYPE_CHECKING:
    import torch

    from pytest_unlearn.models.engine import RunnableModel
    from pytest_unlearn.models.scoring import ValueRow
    from pytest_unlearn.models.texts import Example

# Shares of the layers, in percent, after which values are read.
LENS_DEPTHS = (25, 50, 75)
# The same for the linear probe: in the middle, and before the head.
PROBE_DEPTHS = (50, 100)
# Cross-validation: people are divided into this many parts, and each part is scored by a fit on the
# others.
FOLDS = 5
# Ridge penalty, where a feature's variance is 1 and a kernel is the mean over features.
_RIDGE = 1.0
# Texts of one forward pass.
_ROWS = 32


def _lens(target: Target) -> Iterator[Stage]:
    """Cut the model off after each of `LENS_DEPTHS`, and apply its final norm and its head there.

    Raises AttackError for a model whose layers are not found.
    """
    from pytest_unlearn.models.lm_head import cut_off

    for depth in LENS_DEPTHS:
        try:
            with cut_off(target.model, depth / 100):
                yield str(depth), BOTH
        except ValueError as error:
            raise AttackError(f"lens: {error}; leave it out of --unlearn-attacks") from error


def told_apart(reading: Reading, examples: Sequence[Example], stage: str) -> list[dict[str, Any]]:
    """Return a score for each example: the higher, the more it looks like a forgotten person's.

    Raises AttackError if a split has fewer than two people, and for a model without hidden states.
    """
    reading.check_weights("linear-probe", "hidden states")
    features = signatures(reading.model, examples, int(stage) / 100)
    scores = cross_validated(features, reading.members, reading.people)
    return [{"score": score} for score in scores]


def signatures(model: RunnableModel, examples: Sequence[Example], depth: float) -> torch.Tensor:
    """Return `[examples, hidden]`: how each hidden unit contributes to the value's tokens.

    This is the mean over tokens of the state before the token, scaled to unit variance, times the
    token's row of the head. Its sum is the token's logit through a lens, so a linear probe can see
    how sure a model is of a value, and not only what the value is. `depth`: the share of the layers
    after which states are taken.
    """
    import torch

    from pytest_unlearn.models.generation import context_of
    from pytest_unlearn.models.scoring import value_rows

    with torch.inference_mode(), model.active() as inner:
        rows = value_rows(model.tokenizer, examples, context_of(inner))
        order = sorted(range(len(rows)), key=lambda number: rows[number].length)
        by_place: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), _ROWS):
            part = order[start : start + _ROWS]
            taken = _signatures(inner, [rows[number] for number in part], depth)
            by_place.update(zip(part, taken, strict=True))
    return torch.stack([by_place[number] for number in range(len(rows))])


def _signatures(model: Any, rows: Sequence[ValueRow], depth: float) -> Iterator[torch.Tensor]:
    import torch

    from pytest_unlearn.models.batches import padded
    from pytest_unlearn.models.lm_head import states_at

    head = model.get_output_embeddings().weight
    ids, mask = padded([(row.ids + row.answer)[:-1] for row in rows], 0, model.device)
    states = states_at(model, {"input_ids": ids, "attention_mask": mask}, depth).float()
    for row, of_row in zip(rows, states, strict=True):
        start, value = len(row.ids) - 1 + row.lead, row.answer[row.lead :]
        before = of_row[start : start + len(value)]
        before = before / before.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        tokens = head[torch.tensor(value, device=head.device)].float().to(before.device)
        yield (before * tokens).mean(dim=0).cpu()


def cross_validated(
    features: torch.Tensor, members: Sequence[bool], people: Sequence[str]
) -> list[float]:
    """Return the score of each row of `features` by ridge regression on other people's rows.

    In closed form, on features scaled to unit variance. `people`: the person of each row; all rows
    of a person are in one of `FOLDS` parts, and each part has its share of both sides. Scores are
    centered in each part, since the level of a fit depends on who was left out. Raises AttackError
    if a side has fewer than two people.
    """
    import torch

    from pytest_unlearn.core.store import digest_of

    parts: dict[str, int] = {}
    for side in (True, False):
        own = {who for who, member in zip(people, members, strict=True) if member is side}
        if len(own) < 2:
            raise AttackError(
                "linear-probe: telling people apart takes at least two people to forget and two "
                "control people; leave it out of --unlearn-attacks"
            )
        count = min(FOLDS, len(own))
        parts |= {who: number % count for number, who in enumerate(sorted(own, key=digest_of))}
    features = features.double()
    part = torch.tensor([parts[who] for who in people])
    labels = torch.tensor([1.0 if member else -1.0 for member in members]).double()
    scores = torch.zeros(len(labels)).double()
    for number in sorted(set(parts.values())):
        other, left_out = part != number, part == number
        mean, spread = features[other].mean(dim=0), features[other].std(dim=0).clamp(min=1e-12)
        known = (features[other] - mean) / spread
        asked = (features[left_out] - mean) / spread
        targets = labels[other] - labels[other].mean()
        kernel = known @ known.T / known.shape[1]
        kernel.diagonal().add_(_RIDGE)
        fitted = asked @ known.T / known.shape[1] @ torch.linalg.solve(kernel, targets)
        scores[left_out] = fitted - fitted.mean()
    return [float(score) for score in scores]


ATTACKS = (
    Attack(
        "lens",
        "values read off the layers at 25, 50 and 75 % of the depth (the logit lens: the last norm "
        "and the head applied to a middle layer; nostalgebraist, 2020)",
        _lens,
        stages=tuple(map(str, LENS_DEPTHS)),
        beside=("base", "retrained"),
    ),
    Attack(
        "linear-probe",
        "ridge regression on hidden states at 50 and 100 % of the depth separates forgotten from "
        "control people, cross-validated by person (arXiv 1610.01644): for states.auc",
        unchanged,
        stages=tuple(map(str, PROBE_DEPTHS)),
        read=told_apart,
        whole=True,
        beside=("base", "retrained"),
    ),
)
