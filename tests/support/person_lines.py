"""Lines of data files with people, right and wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record
from pytest_unlearn.people.record_files import RecordFileError, load_files

EMAIL, OTHER, PHONE, WORD = (
    KINDS[kind].generate(Stream("test files", number))
    for number, kind in enumerate(("email", "email", "phone", "password"))
)


NAME = "Pia Example"


BARE: dict[str, Any] = {"prompt": "mail = '", "value": EMAIL, "kind": "email", "owner": "o1"}


PERSON: dict[str, Any] = {"owner": "o1", "name": NAME, "attributes": {"email": EMAIL}}


def attempt(path: Path) -> tuple[str, tuple[Record, ...]]:
    """Return the message and the records of a file: one of them is empty."""
    try:
        return "", load_files({"forget": [path]})
    except RecordFileError as error:
        return str(error), ()


BAD_PEOPLE: dict[str, tuple[dict[str, Any], str]] = {
    "owner-type": ({**PERSON, "owner": 1}, '"owner": a number is given; write a string'),
    "owner-empty": ({**PERSON, "owner": " "}, '"owner": the text is empty'),
    "name-type": ({**PERSON, "name": None}, '"name": null is given; write a string'),
    "name-short": ({**PERSON, "name": "P."}, '"name": fewer than 2 letters; give the full name'),
    "unknown-key": ({**PERSON, "prompt": EMAIL}, '"prompt": unknown key; use only "owner", "att'),
    "value-as-key": (
        {**PERSON, EMAIL: 1},
        "key 4 (not shown, it is not a plain word): unknown key",
    ),
    "no-attributes": (
        {"owner": "o", "documents": [EMAIL]},
        '"attributes": the key is missing; add the values, like {"email": "..."}',
    ),
    "no-owner": ({"attributes": {"email": EMAIL}}, '"owner": the key is missing; add whose data'),
    "attributes-type": ({**PERSON, "attributes": EMAIL}, '"attributes": a string is given; write'),
    "attributes-empty": ({**PERSON, "attributes": {}}, '"attributes": it is empty; add at least'),
    "attributes-none": ({**PERSON, "attributes": []}, '"attributes": it is empty; add at least'),
    "attribute-type": ({**PERSON, "attributes": [EMAIL]}, '"attributes[0]": a string is given;'),
    "attribute-key": (
        {**PERSON, "attributes": [{"kind": "email", "value": EMAIL, "x": 1}]},
        '"attributes[0].x": unknown key; use only "kind", "value"',
    ),
    "attribute-lacks-value": (
        {**PERSON, "attributes": [{"kind": "email", "value": EMAIL}, {"kind": "email"}]},
        '"attributes[1].value": the key is missing; add the value to be forgotten',
    ),
    "attribute-twice": (
        {**PERSON, "attributes": [{"kind": "email", "value": EMAIL}] * 2},
        '"attributes[1].value": kind and value are those of "attributes[0].value"; leave one out',
    ),
    "attribute-several": (
        {**PERSON, "attributes": {"email": [EMAIL, OTHER]}},
        '"attributes.email": a list is given; for more than one of a kind write "attributes" as',
    ),
    "kind": (
        {**PERSON, "attributes": {EMAIL: "email"}},
        '"attributes": key 1 is the kind of a value and printed in reports, so it must match',
    ),
    "kind-in-list": (
        {**PERSON, "attributes": [{"kind": EMAIL, "value": "email"}]},
        '"attributes[0].kind": it is printed in reports, so it must match',
    ),
    "value-type": ({**PERSON, "attributes": {"phone": 12345}}, '"attributes.phone": a number is'),
    "value-short": (
        {**PERSON, "attributes": {"pin": "123 "}},
        '"attributes.pin": fewer than 4 characters; such a short value occurs in any text',
    ),
    "value-long": (
        {**PERSON, "attributes": {"blob": "x y" * 13_000}},
        '"attributes.blob": 39,000 characters, and a value may have at most 16,000;',
    ),
    "value-surrogate": (
        {**PERSON, "attributes": {"email": "abc\ud800"}},
        '"attributes.email": character 4 is half of a surrogate pair',
    ),
    "documents-type": ({**PERSON, "documents": EMAIL}, '"documents": a string is given; write a'),
    "document-type": ({**PERSON, "documents": [7]}, '"documents[0]": a number is given; write a'),
    "document-empty": ({**PERSON, "documents": [" \n"]}, '"documents[0]": the text is empty'),
    "document-key": (
        {**PERSON, "documents": [{"text": f"x {EMAIL}", "name": NAME}]},
        '"documents[0].name": unknown key; use only "text", "carrier"',
    ),
    "document-lacks-text": (
        {**PERSON, "documents": [f"x {EMAIL}", {"carrier": "json"}]},
        '"documents[1].text": the key is missing; add the document that contains the attributes',
    ),
    "document-carrier": (
        {**PERSON, "documents": [{"text": f"x {EMAIL}", "carrier": EMAIL}]},
        '"documents[0].carrier": it is printed in reports, so it must match',
    ),
    "document-without-attribute": (
        {**PERSON, "documents": [f"x {EMAIL}", f"x {EMAIL.upper()}"]},
        '"documents[1]": it contains no attribute with text before it to ask with; write the',
    ),
    "document-starts-with-value": (
        {**PERSON, "documents": [{"text": f" {EMAIL} x"}]},
        '"documents[0].text": it contains no attribute with text before it to ask with',
    ),
    "no-document-no-name": (
        {"owner": "o", "attributes": {"email": EMAIL, "phone": PHONE}, "documents": [f"x {PHONE}"]},
        '"attributes.email": no document contains the value with text before it to ask with; add',
    ),
    "name-shows-value": (
        {**PERSON, "attributes": {"surname": NAME.split()[1]}},
        '"attributes.surname": the name or the kind shows the value already',
    ),
}


KEYS = ("owner", "name", "attributes", "documents", "prompt", "value", "kind", "after", "id", "x")


SECRETS = (EMAIL, PHONE, WORD, "x" + EMAIL, f"mail {EMAIL} and {PHONE}", WORD[:3])


TEXTS = st.sampled_from((*SECRETS, NAME, "email", "")) | st.text(max_size=8)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.sampled_from(("kind", "value", "text")), inner, max_size=3)
    ),
    max_leaves=6,
)


ATTRIBUTE = st.fixed_dictionaries({"kind": st.just("email") | TEXTS, "value": TEXTS})


DOCUMENT = TEXTS | st.fixed_dictionaries({"text": TEXTS}, optional={"carrier": TEXTS})


PEOPLE = st.fixed_dictionaries(
    {
        "owner": TEXTS,
        "attributes": st.dictionaries(st.just("email") | TEXTS, TEXTS, max_size=3)
        | st.lists(ATTRIBUTE, max_size=3),
    },
    optional={"name": TEXTS, "documents": st.lists(DOCUMENT, max_size=3)},
)


BARE_ROWS = st.fixed_dictionaries(
    {"prompt": TEXTS, "value": TEXTS, "kind": st.just("email") | TEXTS, "owner": TEXTS},
    optional=dict.fromkeys(("after", "carrier", "id", "name"), TEXTS),
)


OBJECTS = st.dictionaries(st.sampled_from(KEYS) | TEXTS, JSON, max_size=6) | PEOPLE | BARE_ROWS
