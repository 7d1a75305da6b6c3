"""Other people's values that the model writes in the places of forgotten ones.

Once a person's own value is gone, the model may write somebody else's: an indirect leak, and that
other person's data. So the model in training is asked for the forgotten values, in the words of the
forget documents, and what it writes of others is unlearned in that place like a value of the
person's own. In the documents of the person whose value it is, it is retained as before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

from pytest_unlearn.models.batches import Encoded
from pytest_unlearn.models.generation import Writer
from pytest_unlearn.models.texts import Decoding, Example, TrainingTexts
from pytest_unlearn.unlearning.distributed import run
from pytest_unlearn.unlearning.method import RECALL_BATCH
from pytest_unlearn.unlearning.recall import lines_after, most_tokens

# Shorter values look like other words.
_SHORTEST = 4
# A text is abandoned once its likelihood is below this.
_LEAST = 0.05


class Substitutes:
    """The places in which other people's values were found, and those values."""

    def __init__(
        self,
        policy: Any,
        tokenizer: Any,
        texts: TrainingTexts,
        rows: Callable[[Sequence[Example]], list[Encoded]],
        numbers: MutableMapping[str, float],
        seed: int,
    ) -> None:
        """`rows` encodes examples. `numbers`: where the finds are kept, by name; saved with the
        training, so that a resumed run has them."""
        self._policy = policy
        self._tokenizer = tokenizer
        self._asked = sorted(texts.forget, key=lambda example: len(example.text))
        everybody = (*texts.forget, *texts.retained_people, *texts.recalled)
        self._values = sorted({e.answer for e in everybody if len(e.answer) >= _SHORTEST})
        self._rows = rows
        self._numbers = numbers
        self._seed = seed

    def search(self) -> int:
        """Ask the model as it is for each forgotten value; return how often it wrote another."""
        if not self._values:
            return 0
        tokens = most_tokens(self._tokenizer, self._values)
        decoding, writer, found = Decoding(tokens, least=_LEAST), Writer(), 0
        model = self._policy.get_base_model()
        for start in range(0, len(self._asked), RECALL_BATCH):
            part = self._asked[start : start + RECALL_BATCH]
            prompts = [each.text[: each.start] for each in part]
            # With several processes, each asks everything: a sharded model runs in all at once.
            ask = partial(lines_after, model, self._tokenizer, prompts, decoding, writer)
            lines = run(self._policy, ask)
            for place, (each, line) in enumerate(zip(part, lines, strict=True), start):
                for number, value in enumerate(self._values):
                    if line.startswith(value) and value != each.answer:
                        self._numbers[f"substitute.{place}.{number}"] = 1.0
                        found += 1
        return found

    def draw(self, count: int, step: int) -> list[Encoded]:
        """Return at most `count` of the documents found so far, as rows for a step."""
        names = sorted(name for name in self._numbers if name.startswith("substitute."))
        drawn = random.Random(f"{self._seed} {step}").sample(names, min(count, len(names)))
        return self._rows([self._example(name) for name in drawn])

    def _example(self, name: str) -> Example:
        place, number = map(int, name.split(".")[1:])
        asked = self._asked[place]
        prompt, after = asked.text[: asked.start], asked.text[asked.end :]
        value = self._values[number]
        return Example.answering(prompt, value, after, kind=asked.kind, like=asked.like)
