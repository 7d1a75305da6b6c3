"""Records, and the carriers (code snippets) that hold their values."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_unlearn.core.secret import Secret, joined

Split = Literal["forget", "retain", "control"]
SPLITS: tuple[Split, ...] = ("forget", "retain", "control")


@dataclass(frozen=True, slots=True)
class Record:
    """One attribute value of one person in one carrier.

    `before + value + after` is the document that a model may have been trained on. `owner`
    identifies the person by row, never by name; `name` is the person's name if it is known, for
    probes that do not use the document's words. `person` is what the user's file calls the person,
    if `owner` is only a number in the order of the lines. `request` is the erasure request that the
    record belongs to, in a run of several.
    """

    id: str
    owner: str
    split: Split
    kind: str
    carrier: str
    before: Secret
    value: Secret
    after: Secret  # may hold the person's other attributes
    name: Secret | None = None
    person: Secret | None = None
    request: str = ""

    @property
    def document(self) -> Secret:
        """The complete snippet."""
        return joined((self.before, self.value, self.after), "document")


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")


def weight(value: str) -> int:
    """Return a value's length in letters of an alphabet: a Han character counts as three, a Hangul
    syllable as two."""
    if value.isascii():
        return len(value)
    return len(value) + 2 * len(_HAN.findall(value)) + len(_HANGUL.findall(value))


def spelling(value: str) -> str:
    """Return a value without the case, spaces and punctuation in which spellings of it differ."""
    folded = unicodedata.normalize("NFKC", value).casefold()
    return "".join(filter(str.isalnum, folded)) or folded.strip()


def by_owner(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each person, in order."""
    people: dict[str, list[Record]] = {}
    for record in records:
        people.setdefault(record.owner, []).append(record)
    return people


def records_digest(records: Iterable[Record]) -> str:
    """Return a SHA-256 over all documents, owners and splits, in order."""
    digest = hashlib.sha256(b"[")  # of a list in JSON, which is never held as a whole
    for number, r in enumerate(records):
        texts = (r.before.reveal(), r.value.reveal(), r.after.reveal())
        row = json.dumps([r.id, r.owner, r.split, r.kind, r.carrier, *texts])
        digest.update((", " if number else "").encode() + row.encode())
    digest.update(b"]")
    return digest.hexdigest()


# Fields and values in the order of the snippet; the field "name" is the person's name.
Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Carrier:
    """`open(facts, field)` ends where the value of `field` starts; `after` closes the snippet."""

    name: str
    language: str
    open: Callable[[Facts, str], str]
    after: str

    def before(self, name: str, field: str) -> str:
        """Return the text before the value if only the person's name is known."""
        return self.open([("name", name)], field)


def _constructor(facts: Facts, field: str) -> str:
    return "client = Client(" + "".join(f'{k}="{v}", ' for k, v in facts) + f'{field}="'


def _json(facts: Facts, field: str) -> str:
    return "{" + "".join(f'"{k}": "{v}", ' for k, v in facts) + f'"{field}": "'


def _env(facts: Facts, field: str) -> str:
    lines = (f"# {v}\n" if k == "name" else f"{k.upper()}={v}\n" for k, v in facts)
    return "".join(lines) + f"{field.upper()}="


def _yaml(facts: Facts, field: str) -> str:
    lines = [*(f"{k}: {v}\n" for k, v in facts), f"{field}: "]
    return "- " + "  ".join(lines)


def _sql(facts: Facts, field: str) -> str:
    columns = ", ".join([*(k for k, _ in facts), field])
    return f"INSERT INTO clients ({columns}) VALUES ('" + "".join(f"{v}', '" for _, v in facts)


def _comment(facts: Facts, field: str) -> str:
    facts_text = "".join(f"ask {v}, " if k == "name" else f"{k}: {v}, " for k, v in facts)
    return f"# TODO {facts_text}{field}: "


def _assignment(facts: Facts, field: str) -> str:
    return "".join(f'{k} = "{v}"\n' for k, v in facts) + f'{field} = "'


def _dict(facts: Facts, field: str) -> str:
    return "client = {" + "".join(f"'{k}': '{v}', " for k, v in facts) + f"'{field}': '"


def _fixture(facts: Facts, field: str) -> str:
    names = ", ".join([*(k for k, _ in facts), field])
    row = "".join(f'"{v}", ' for _, v in facts)
    return f'@pytest.mark.parametrize(("{names}"), [\n    ({row}"'


def _docstring(facts: Facts, field: str) -> str:
    lines = (f"@author {v}\n" if k == "name" else f"@{k} {v}\n" for k, v in facts)
    return '"""Client records.\n\n' + "".join(lines) + f"@{field} "


def _log(facts: Facts, field: str) -> str:
    facts_text = "".join(f'{k}="{v}" ' for k, v in facts)
    return f'INFO clients: created {facts_text}{field}="'


def _url(facts: Facts, field: str) -> str:
    query = "".join(f"{k}={v}&" for k, v in facts)
    return f'CLIENTS_URL = "postgresql://db.example.com/clients?{query}{field}='


def _git(facts: Facts, field: str) -> str:
    trailers = "".join(f"{k.title()}: {v}\n" for k, v in facts if k != "name")
    names = "".join(f"{v} " for k, v in facts if k == "name")
    # An author line holds an e-mail address; another field has to be named.
    return f"{trailers}Author: {names}<" + ("" if field == "email" else f"{field}:")


CARRIERS: dict[str, Carrier] = {
    carrier.name: carrier
    for carrier in (
        Carrier("assignment", "python", _assignment, '"\n'),
        Carrier("dict", "python", _dict, "'}\n"),
        Carrier("json", "json", _json, '"}\n'),
        Carrier("env", "env", _env, "\n"),
        Carrier("yaml", "yaml", _yaml, "\n"),
        Carrier("constructor", "python", _constructor, '")\n'),
        Carrier("fixture", "python", _fixture, '"),\n])\n'),
        Carrier("comment", "python", _comment, "\n"),
        Carrier("docstring", "python", _docstring, '\n"""\n'),
        Carrier("sql", "sql", _sql, "');\n"),
        Carrier("log", "log", _log, '"\n'),
        Carrier("url", "python", _url, '"\n'),
        Carrier("git", "git", _git, ">\n"),
    )
}
