"""Carriers: the shapes in which personal data stands in code; whole files are in `documents`.

A carrier turns what is known of a person and the field that is asked for into the text before the
value; `after` closes the snippet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Field and value, in the order in which they stand in the snippet; the field "name" is the
# person's name.
Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Carrier:
    """`open(facts, field)` ends where the value of `field` starts; `after` closes the snippet."""

    name: str
    language: str
    open: Callable[[Facts, str], str]
    after: str

    def before(self, name: str, field: str) -> str:
        """Return the text before the value where nothing but the person's name is known."""
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
    said = "".join(f"ask {v}, " if k == "name" else f"{k}: {v}, " for k, v in facts)
    return f"# TODO {said}{field}: "


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
    said = "".join(f'{k}="{v}" ' for k, v in facts)
    return f'INFO clients: created {said}{field}="'


def _url(facts: Facts, field: str) -> str:
    said = "".join(f"{k}={v}&" for k, v in facts)
    return f'CLIENTS_URL = "postgresql://db.example.com/clients?{said}{field}='


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
