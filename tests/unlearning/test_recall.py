"""What the base recalls about unlisted people, and what never comes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_unlearn.models.loading import Weights, load
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.texts import Example, TrainingTexts
from pytest_unlearn.people.record import Record
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.recall import Form, forms, recalled


def example(text: str, name: str, value: str, kind: str = "email") -> Example:
    """Return a document of a person."""
    begin, start = text.index(name), text.index(value)
    return Example(text, start, start + len(value), kind=kind, person=(begin, begin + len(name)))


ANN = 'user = User("Ann Lee", email="ann@example.org")\n'
BO = 'user = User("Bo Yung", email="bo@example.org")\n'


def test_a_form_is_what_two_names_share() -> None:
    both = [example(ANN, "Ann Lee", "ann@example.org"), example(BO, "Bo Yung", "bo@example.org")]
    assert forms(both) == [Form("email", 'user = User("', '", email="', '")\n')]
    assert forms([both[0], both[0]]) == []  # twice the same person


def test_what_stands_in_one_document_only_is_in_no_form() -> None:
    """Another attribute of the person between name and value, or other code around."""
    own = ANN.replace(", email", ', phone="555-0100", email')
    documents = [
        example("import a\n" + ANN + "one()\n", "Ann Lee", "ann@example.org"),
        example("import b\n" + BO + "two()\n", "Bo Yung", "bo@example.org"),
        example(own, "Ann Lee", "ann@example.org"),
    ]
    assert forms(documents) == [Form("email", 'user = User("', '", email="', '")\n')]


def test_documents_that_name_nobody_have_no_form() -> None:
    plain = Example.answering("key = ", "abcdef", "\n")
    lines: list[str] = []
    assert forms([plain, plain]) == []
    assert recalled(None, None, TrainingTexts([plain], [], []), 10, 0, lines.append) == []
    assert "no two people's documents have a form in common that fits" in lines[0]


def test_a_form_that_does_not_fit_the_context_is_not_asked(
    dataset: Dataset, weights: Weights
) -> None:
    """The tiny model takes 512 tokens; training cuts such a document, a question cannot be cut."""
    texts = dataset.training_texts()
    filler = "# one more line of some code\n" * 200

    def longer(examples: Sequence[Example]) -> list[Example]:
        return [
            Example.answering(
                filler + each.text[: each.start],
                each.answer,
                kind=each.kind,
                person=tuple(place + len(filler) for place in each.person),
            )
            for each in examples
            if each.person
        ]

    long = TrainingTexts(longer(texts.forget), longer(texts.retained_people), [])
    lines: list[str] = []
    assert recalled(weights.model, weights.tokenizer, long, 10, 0, lines.append) == []
    assert "fits its context" in lines[0]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(Settings(model="tiny"))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load(resolve("tiny", "--unlearn-model"), "cpu", "float32")


@pytest.fixture(scope="module")
def documents(dataset: Dataset, weights: Weights) -> Sequence[Example]:
    """What the tiny model brings up when it is asked for 400 names."""
    texts = dataset.training_texts(carriers=3)
    found = recalled(weights.model, weights.tokenizer, texts, 400, 0)
    assert found == recalled(weights.model, weights.tokenizer, texts, 400, 0)
    return found


def values_in(documents: Sequence[Example], records: Sequence[Record]) -> int:
    """Return how many records' values stand in a document with their person's name."""
    return sum(
        any(
            record.value.reveal() == document.answer
            and record.name is not None
            and record.name.reveal() in document.text
            for document in documents
        )
        for record in records
    )


def test_people_in_no_list_come_up(dataset: Dataset, documents: Sequence[Example]) -> None:
    held_out = [r for r in dataset.records_of("retain") if r.owner in dataset.division.people]
    assert values_in(documents, held_out) > 40  # of 256
    assert values_in(documents, dataset.records_of("control")) == 0


def test_nobody_who_is_to_be_forgotten_comes_up(
    dataset: Dataset, documents: Sequence[Example]
) -> None:
    for record in dataset.records_of("forget"):
        assert record.name is not None
        assert not any(record.name.reveal() in document.text for document in documents)
        assert not any(record.value.reveal() in document.text for document in documents)
