"""Carriers: the shapes in which personal data stands in code.

A carrier turns a name, a field and a value into the text before the value and the text after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Carrier:
    """`before(name, field)` ends where the value starts; `after` closes the snippet."""

    name: str
    before: Callable[[str, str], str]
    after: str


CARRIERS: dict[str, Carrier] = {
    carrier.name: carrier
    for carrier in (
        Carrier("constructor", lambda n, f: f'client = Client(name="{n}", {f}="', '")\n'),
        Carrier("json", lambda n, f: f'{{"name": "{n}", "{f}": "', '"}\n'),
        Carrier("env", lambda n, f: f"# {n}\n{f.upper()}=", "\n"),
        Carrier("yaml", lambda n, f: f"- name: {n}\n  {f}: ", "\n"),
        Carrier("sql", lambda n, f: f"INSERT INTO clients (name, {f}) VALUES ('{n}', '", "');\n"),
        Carrier("comment", lambda n, f: f"# TODO ask {n}, {f}: ", "\n"),
    )
}
