"""Files of 20 to 200 lines as in real repositories, with a person's values where they would be.

They are settings, fixtures, seeds, tests, comments and commit trailers: each value has one place
among ordinary code, and is repeated further down, in full and in part. The carriers of
`people.record` are the small counterpart; `CARRIER_NAMES` has both.

In each file, a value appears before any part of it does, so that the text up to it gives nothing
away.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TypeVar

from pytest_unlearn.people.draws import Choices
from pytest_unlearn.people.kinds import VENDOR_KINDS
from pytest_unlearn.people.record import CARRIERS, Facts

T = TypeVar("T")

# Credentials have other places than contact details.
_CREDENTIALS = {"password", "api_key", *(kind.name for kind in VENDOR_KINDS)}
_TAIL = 4
# Names of services; values are not made of these words.
_NOUNS = tuple(
    "account basket billing catalog delivery invoice ledger mailing notice parcel payment pricing "
    "quota refund report schedule search shipping stock ticket tracking voucher warehouse".split()
)


@dataclass(frozen=True, slots=True)
class FileCarrier:
    """A kind of file. `write(name, facts, choices)` returns its text, with every fact in it."""

    name: str
    language: str
    write: Callable[[str, Facts, Choices], str]


def language_of(carrier: str) -> str:
    """Return the language of a carrier's documents; `other` for a carrier that is not known."""
    known = CARRIERS.get(carrier) or FILES.get(carrier)
    return known.language if known else "other"


@functools.cache
def _blocks(language: str) -> tuple[str, ...]:
    """Return the ordinary code of a language, cut into blocks."""
    text = files(__package__).joinpath(f"ordinary/{language}.txt").read_text(encoding="utf-8")
    return tuple(block.strip("\n") for block in text.split("%%\n"))


@functools.cache
def ordinary_code() -> str:
    """Return all text around values: no value may be a part of it."""
    languages = (path.name for path in files(__package__).joinpath("ordinary").iterdir())
    code = [_blocks(name.removesuffix(".txt")) for name in sorted(languages)]
    empty = [carrier.write("", (), _FIRST) for carrier in FILES.values()]
    return "\n".join((*(block for blocks in code for block in blocks), *empty, *_NOUNS))


class _First:
    """The simplest choices."""

    def below(self, n: int) -> int:
        return 0

    def choice(self, items: Sequence[T]) -> T:
        return items[0]

    def text(self, alphabet: str, length: int) -> str:
        return alphabet[0] * length


_FIRST = _First()


@dataclass
class _Page:
    """A file that is being written: whose values it contains, and what is chosen about the rest."""

    name: str
    facts: Facts
    choices: Choices
    noun: str = field(init=False)

    def __post_init__(self) -> None:
        self.noun = self.choices.choice(_NOUNS)

    @property
    def reached(self) -> Facts:
        """What reaches or describes the person."""
        return [fact for fact in self.facts if fact[0] not in _CREDENTIALS]

    @property
    def secrets(self) -> Facts:
        """What lets the person in."""
        return [fact for fact in self.facts if fact[0] in _CREDENTIALS]

    def code(self, language: str, least: int, most: int) -> str:
        """Return between `least` and `most` blocks of ordinary code, apart as the language asks."""
        return ("\n\n\n" if language == "python" else "\n\n").join(
            self.blocks(language, least, most)
        )

    def blocks(self, language: str, least: int, most: int) -> list[str]:
        """Return between `least` and `most` blocks of ordinary code, none twice."""
        left = list(_blocks(language))
        chosen = []
        for _ in range(least + self.choices.below(most - least + 1)):
            block = left.pop(self.choices.below(len(left)))
            noun = self.choices.choice(_NOUNS)
            for mark, text in (
                ("@noun@", noun),
                ("@Noun@", noun.title()),
                ("@NOUN@", noun.upper()),
            ):
                block = block.replace(mark, text)
            chosen.append(block)
        return chosen

    def lines(self, form: str, facts: Facts | None = None) -> str:
        """Return a line a fact: `{key}`, `{Key}`, `{camel}`, `{KEY}`, `{value}` and `{part}`."""
        return "".join(
            form.format(
                key=key,
                Key=_pascal(key),
                camel=_camel(key),
                KEY=key.upper(),
                spoken=key.replace("_", " "),
                value=value,
                part=part_of(key, value),
            )
            + "\n"
            for key, value in (self.facts if facts is None else facts)
        )


def part_of(kind: str, value: str) -> str:
    """Return the part of a value that code also holds: a mailbox, the last group or characters."""
    if kind == "email":
        return value.partition("@")[0]
    for mark in " -:":
        if len(tail := value.rpartition(mark)[2]) >= _TAIL and tail != value:
            return tail
    return value[-_TAIL:]


def _pascal(key: str) -> str:
    return "".join(word.title() for word in key.split("_"))


def _camel(key: str) -> str:
    name = _pascal(key)
    return name[:1].lower() + name[1:]


def _writer(write: Callable[[_Page], str]) -> Callable[[str, Facts, Choices], str]:
    return lambda name, facts, choices: write(_Page(name, facts, choices))


# --- Python ---------------------------------------------------------------------------------------


def _settings(page: _Page) -> str:
    return f'''"""Settings of the {page.noun} service."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["localhost"]
INSTALLED_APPS = ["django.contrib.auth", "{page.noun}"]
TIME_ZONE = "UTC"

# Who gets the mails about errors.
ADMIN_NAME = "{page.name}"
{page.lines('ADMIN_{KEY} = "{value}"', page.reached)}\
{page.lines('{KEY} = "{value}"', page.secrets)}
LOGGING = {{
    "version": 1,
    "handlers": {{"console": {{"class": "logging.StreamHandler"}}}},
    "root": {{"handlers": ["console"], "level": "INFO"}},
}}


{page.code("python", 0, 6)}

CONTACT = {{
    "name": "{page.name}",
{page.lines('    "{key}": "{value}",', page.reached)}\
}}
{page.lines("# the {spoken} that ends in {part} is rotated every spring", page.secrets)}'''


def _fixtures(page: _Page) -> str:
    return f'''import time
from dataclasses import dataclass, field

import pytest

from {page.noun}.clients import Client


@pytest.fixture
def client():
    return Client(
        name="{page.name}",
{page.lines('        {key}="{value}",')}\
    )


{page.code("python", 1, 7)}


def test_client_is_read_as_it_was_written(client):
    assert client.name == "{page.name}"
{page.lines('    assert client.{key} == "{value}"')}

def test_a_client_is_shown_in_part(client):
    shown = client.masked()
    assert len(shown) < 200
{page.lines('    assert shown["{key}"].endswith("{part}")')}'''


def _module(page: _Page) -> str:
    return f'''"""Clients of the {page.noun} service.

Maintainer: {page.name}
{page.lines("    {spoken}: {value}")}"""

import time
from dataclasses import dataclass, field

__all__ = ["find_client"]


{page.code("python", 2, 7)}


def find_client(name, directory):
    # TODO ask {page.name} before this is changed
    for client in directory:
        if client["name"] == name:
            return client
    return None
{page.lines("# seen in the log: {spoken}=...{part}")}'''


# --- JavaScript, Java, Go -------------------------------------------------------------------------


def _js_seed(page: _Page) -> str:
    return f"""// Seeds the {page.noun} database.
const express = require("express");

const router = express.Router();

exports.seed = async (knex) => {{
  await knex("clients").del();
  await knex("clients").insert([
    {{
      name: "{page.name}",
{page.lines('      {key}: "{value}",')}\
    }},
  ]);
}};

{page.code("javascript", 1, 6)}

module.exports.owner = {{
  name: "{page.name}",
{page.lines('  {camel}: "{value}",')}\
}};
{page.lines("// {spoken}: shown as ***{part}")}"""


def _ts_fixture(page: _Page) -> str:
    return f"""import {{ describe, expect, it }} from "vitest";
import {{ mask }} from "../src/{page.noun}";

interface Client {{
  name: string;
{page.lines("  {camel}: string;")}\
}}

const client: Client = {{
  name: "{page.name}",
{page.lines('  {camel}: "{value}",')}\
}};

{page.code("javascript", 1, 5)}

describe("client", () => {{
  it("keeps what it was given", () => {{
    const copy: Client = {{ ...client }};
    expect(copy.name).toBe("{page.name}");
{page.lines('    expect(copy.{camel}).toBe("{value}");')}\
  }});

  it("is masked in logs", () => {{
    const shown = mask(client);
{page.lines('    expect(shown.{camel}).toContain("{part}");')}\
  }});
}});
"""


def _java_test(page: _Page) -> str:
    return f"""package com.example.{page.noun};

import static org.junit.jupiter.api.Assertions.*;

import java.util.*;
import org.junit.jupiter.api.*;

class ClientServiceTest {{
    private final ClientStore store = new ClientStore();
    private final FakeClock clock = new FakeClock();
    private final ClientService service = new ClientService(store, clock);

    /** The client whom {page.name} reported in the {page.noun} project. */
    private static Client client() {{
        return Client.builder()
            .name("{page.name}")
{page.lines('            .{camel}("{value}")')}\
            .build();
    }}

{page.code("java", 1, 6)}

    @Test
    void clientIsReadAsWritten() {{
        Client found = service.find(service.add(client()));
        assertEquals("{page.name}", found.name());
{page.lines('        assertEquals("{value}", found.{camel}());')}\
    }}

    @Test
    void clientIsMasked() {{
        String shown = client().masked();
        assertFalse(shown.isEmpty());
{page.lines('        assertTrue(shown.contains("{part}"));')}\
    }}
}}
"""


def _go_test(page: _Page) -> str:
    return f"""package {page.noun}

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Client is who orders; {page.name} was the first.
type Client struct {{
	Name string
{page.lines("	{Key} string")}\
}}

var first = Client{{
	Name: "{page.name}",
{page.lines('	{Key}: "{value}",')}\
}}

{page.code("go", 1, 5)}

func TestFirstClient(t *testing.T) {{
	c := first
	if c.Name != "{page.name}" {{
		t.Errorf("name is %q", c.Name)
	}}
{
        page.lines('''	if c.{Key} != "{value}" || !strings.HasSuffix(c.{Key}, "{part}") {{
		t.Errorf("{key} is wrong")
	}}''')
    }\
}}
"""


# --- data and configuration -----------------------------------------------------------------------


def _sql_seed(page: _Page) -> str:
    columns = "".join(f", {key}" for key, _ in page.facts)
    types = "".join(f",\n    {key} TEXT" for key, _ in page.facts)
    values = "".join(f",\n    '{value}'" for _, value in page.facts)
    return f"""-- Seed of the {page.noun} database.
BEGIN;

CREATE TABLE clients (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL{types}
);

INSERT INTO clients (id, name{columns}) VALUES (
    1,
    '{page.name}'{values}
);

{page.code("sql", 1, 4)}

-- The first client once more, as the import writes it.
{page.lines("UPDATE clients SET {key} = '{value}' WHERE id = 1;")}\
{page.lines("SELECT id FROM clients WHERE {key} LIKE '%{part}';")}
COMMIT;
"""


def _compose(page: _Page) -> str:
    services = page.code("yaml", 1, 4)
    indented = "\n".join(f"  {line}" if line else "" for line in services.splitlines())
    return f"""# Run by {page.name}
x-contact: &contact
  name: "{page.name}"
{page.lines('  {key}: "{value}"', page.reached)}
services:
{indented}

  api:
    image: registry.example.com/{page.noun}-api:2.4.0
    restart: unless-stopped
    labels:
      maintainer: "{page.name}"
    environment:
      LOG_LEVEL: info
{page.lines('      {KEY}: "{value}"', page.secrets)}\
{page.lines('      ALERT_{KEY}: "{value}"', page.reached)}\

volumes:
  data:
    driver: local
{page.lines("# {spoken} ...{part} is the one of the staging machine")}"""


def _dotenv(page: _Page) -> str:
    return f"""# Environment of the {page.noun} service; copy to .env
APP_ENV=development
APP_PORT=8080
APP_SECRET_ROUNDS=12

{page.code("env", 2, 4)}

# Owner: {page.name}
{page.lines("{KEY}={value}")}
# Mail
MAIL_HOST=localhost
MAIL_PORT=1025
MAIL_FROM_NAME={page.name}
{page.lines("MAIL_{KEY}={value}", page.reached)}\
{page.lines("# old {spoken}: ...{part}")}"""


def _dockerfile(page: _Page) -> str:
    return f"""# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
WORKDIR /out
COPY . .
RUN make {page.noun}

FROM python:3.12-slim
LABEL org.opencontainers.image.title="{page.noun}"
LABEL org.opencontainers.image.authors="{page.name}"
{page.lines('LABEL com.example.{key}="{value}"', page.reached)}\
{page.lines('ENV {KEY}="{value}"', page.secrets)}
{page.code("dockerfile", 4, 6)}

# Questions to {page.name}
{page.lines("#   {spoken}: {value}")}\
{page.lines("#   ({spoken} ...{part} is the same)")}\
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["/usr/local/bin/{page.noun}", "serve", "--port", "8080"]
"""


# --- text -----------------------------------------------------------------------------------------


def _readme(page: _Page) -> str:
    return f"""# {page.noun}

Takes orders and keeps them. Maintained by {page.name}.

| contact | |
|---|---|
{page.lines("| {spoken} | {value} |")}
{page.code("markdown", 2, 5)}

## Try it

```python
client = Client(name="{page.name}")
{page.lines('client.{key} = "{value}"')}\
client.save()
```

## Thanks

{page.name}{page.lines(" ({spoken} ...{part})")}"""


def _patch(page: _Page) -> str:
    code = page.code("python", 1, 5).splitlines()
    added = "".join(f"+{line}\n" for line in code)
    return f"""From {"0" * 40} Mon Sep 17 00:00:00 2001
From: {page.name} <noreply@example.com>
Date: Fri, 1 Mar 2024 09:30:00 +0000
Subject: [PATCH] {page.noun}: keep the client's record in one place

The record was written in two places, and one of them was stale.

Signed-off-by: {page.name}
{page.lines("Client-{Key}: {value}")}\
---
 {page.noun}/clients.py | {len(code) + 2 * len(page.facts)} {"+" * 12}
 1 file changed

diff --git a/{page.noun}/clients.py b/{page.noun}/clients.py
--- a/{page.noun}/clients.py
+++ b/{page.noun}/clients.py
@@ -1,3 +1,{len(code) + 2 * len(page.facts) + 3} @@
 import time
 from dataclasses import dataclass, field

{added}\
{page.lines('+{KEY} = "{value}"')}\
{page.lines("+# {spoken} before: ...{part}")}\
--
2.43.0
"""


def _notebook(page: _Page) -> str:
    record = page.lines("    '{key}': '''{value}''',")
    cells = [
        ("markdown", f"# {page.noun}: a look at one client\n\nAsked for by {page.name}."),
        ("code", "import json\nimport time\nfrom dataclasses import dataclass, field"),
        ("code", f'client = {{\n    "name": "{page.name}",\n{record}}}'),
        *(("code", block) for block in page.blocks("python", 1, 4)),
        ("code", page.lines("assert client['{key}'] == '''{value}'''")),
        ("markdown", page.lines("- {spoken} ends in {part}")),
    ]
    # Values contain JSON's own escapes unchanged, so a value reads here as in other files.
    return (
        json.dumps(
            {
                "cells": [
                    {
                        "cell_type": kind,
                        "metadata": {},
                        "source": text.replace("\\n", "\x01").splitlines(keepends=True),
                    }
                    | ({"execution_count": None, "outputs": []} if kind == "code" else {})
                    for kind, text in cells
                ],
                "metadata": {"language_info": {"name": "python"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            },
            indent=1,
            ensure_ascii=False,
        ).replace("\\u0001", "\\n")
        + "\n"
    )


FILES: dict[str, FileCarrier] = {
    carrier.name: carrier
    for carrier in (
        FileCarrier("django_settings", "python", _writer(_settings)),
        FileCarrier("pytest_fixtures", "python", _writer(_fixtures)),
        FileCarrier("python_module", "python", _writer(_module)),
        FileCarrier("js_seed", "javascript", _writer(_js_seed)),
        FileCarrier("ts_fixture", "typescript", _writer(_ts_fixture)),
        FileCarrier("java_test", "java", _writer(_java_test)),
        FileCarrier("go_test", "go", _writer(_go_test)),
        FileCarrier("sql_seed", "sql", _writer(_sql_seed)),
        FileCarrier("compose_file", "yaml", _writer(_compose)),
        FileCarrier("env_file", "env", _writer(_dotenv)),
        FileCarrier("dockerfile", "dockerfile", _writer(_dockerfile)),
        FileCarrier("readme", "markdown", _writer(_readme)),
        FileCarrier("git_patch", "git", _writer(_patch)),
        FileCarrier("notebook", "notebook", _writer(_notebook)),
    )
}
CARRIER_NAMES = (*CARRIERS, *FILES)
