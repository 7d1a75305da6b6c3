"""The reference pages' tables, made from the code whenever the documentation is built.

A page says `{unlearn-reference} NAME` where a part of `PARTS` belongs. Each part is a function
that returns Markdown, so that the tests can look into it without a build.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest_unlearn
from pytest_unlearn.reports.tables import markdown_table

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

PACKAGE = Path(pytest_unlearn.__file__).parent


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    return "\n".join(markdown_table(heads, ([str(cell) for cell in row] for row in rows)))


def definitions(entries: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a Markdown definition list: a term, and its paragraphs or lists."""
    return "\n\n".join(
        term + "\n: " + "\n\n".join(paragraphs).replace("\n", "\n  ")
        for term, paragraphs in entries
    )


def code(value: object) -> str:
    """Return a value as inline code; nothing for an empty one."""
    return f"`{value}`" if str(value) else ""


def prose(text: str | None) -> list[str]:
    """Return the paragraphs of a docstring, each on one line; indented examples as code."""
    found = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        if paragraph.startswith("    "):
            found.append(f"```python\n{textwrap.dedent(paragraph)}\n```")
        elif paragraph.startswith(".. versionadded:: "):
            found.append(f"Since {paragraph.removeprefix('.. versionadded:: ')}.")
        else:
            found.append(" ".join(paragraph.split()).replace("::", ":"))
    return found


class Declared:
    """Stands in for pytest's parser, and keeps what the plugin declares."""

    def __init__(self) -> None:
        self.flags: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, Any]] = {}

    def getgroup(self, *names: str) -> Declared:
        return self

    def addoption(self, flag: str, **given: Any) -> None:
        self.flags[flag] = given

    def addini(self, key: str, **given: Any) -> None:
        self.keys[key] = given


def declared() -> Declared:
    """Return all flags and ini keys of the plugin."""
    from pytest_unlearn.session.options import add_options

    found: Any = Declared()
    add_options(found)
    return found  # type: ignore[no-any-return]


def flags() -> str:
    """Every flag, with the ini key of the same name and its type."""
    found = declared()
    entries = []
    for flag, given in found.flags.items():
        value = given.get("metavar", "")
        form = f"{flag}[={value}]" if given.get("nargs") == "?" else f"{flag}={value}"
        key = found.keys.get(flag.removeprefix("--").replace("-", "_"))
        ini = f"ini: `{_ini_name(flag)}` ({key['type']})" if key else "no ini key"
        entries.append((code(form if value else flag), [given["help"].replace("%%", "%"), ini]))
    return definitions(entries)


def _ini_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def ini_keys() -> str:
    """The ini keys that are no flag."""
    found = declared()
    flags = {_ini_name(flag) for flag in found.flags}
    return table(
        ("ini key", "type", "what for"),
        ((code(k), g["type"], g["help"]) for k, g in found.keys.items() if k not in flags),
    )


def metrics() -> str:
    """Every metric that a gate can use."""
    from pytest_unlearn.gates.planning import metric_table

    return metric_table()


def profiles() -> str:
    """Every named set of gates."""
    from pytest_unlearn.gates.gate import DEFAULT, PROFILES
    from pytest_unlearn.gates.planning import profile_table

    about = [f"`{p.name}`: {p.about}." for p in (*PROFILES.values(), DEFAULT)]
    gates = ", ".join(map(code, DEFAULT.gates))
    return "\n\n".join([profile_table(), f"Without a gate and without a profile: {gates}.", *about])


def attacks() -> str:
    """Every built-in attack: what is done, what an attacker needs for it, and when it is made."""
    from pytest_unlearn.attacks.attack import attacks as known

    needs = {
        "prompts": "a way to ask",
        "chat": "a way to ask, in a chat",
        "weights": "the tested weights",
        "adapter": "the adapter and its base",
        "base": "the weights before and after unlearning",
    }
    sets = {"cheap": "`cheap`, `all`", "all": "`all`", "named": "by name only"}
    rows = [
        (code(name), attack.about, needs[attack.needs], sets[attack.effort])
        for name, attack in known().items()
    ]
    return table(("attack", "what is done", "what it takes", "in the sets"), rows)


def methods() -> str:
    """Every built-in method: what it does, where it comes from, its loss and its own options."""
    from pytest_unlearn.unlearning.method import RETAIN_OPTIONS, UnlearnOptions
    from pytest_unlearn.unlearning.methods import METHODS

    common = {field.name: field.default for field in dataclasses.fields(UnlearnOptions)}
    entries = []
    for name, method in METHODS.items():
        values = dataclasses.asdict(method.defaults)
        if not method.uses_retain:
            values = {key: value for key, value in values.items() if key not in RETAIN_OPTIONS}
        changed = [f"{k}={_plain(v)}" for k, v in values.items() if common.get(k) != v]
        own = type(method.defaults)
        entries.append(
            (
                code(name),
                [
                    *prose(method.about),
                    f"Loss: {_lowered(prose(method.loss.__doc__)[0])}",
                    f"Defaults of its own: {', '.join(map(code, changed))}",
                    *(prose(own.__doc__) if own is not UnlearnOptions else []),
                ],
            )
        )
    return definitions(entries)


def _lowered(text: str) -> str:
    return text.removeprefix("Return ")


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def training_options() -> str:
    """The options of all methods."""
    from pytest_unlearn.unlearning.method import UnlearnOptions

    return _options(UnlearnOptions)


def planting_options() -> str:
    """The options of `--unlearn-plant`."""
    from pytest_unlearn.unlearning.method import PlantOptions

    return _options(PlantOptions)


def _options(options: Any) -> str:
    """Return a table of options, and the docstring that explains them."""
    rows = [
        (code(f.name), "(the method's)" if f.default is dataclasses.MISSING else _plain(f.default))
        for f in dataclasses.fields(options)
    ]
    return "\n\n".join([*prose(options.__doc__), table(("option", "default"), rows)])


def presets() -> str:
    """Every preset."""
    from pytest_unlearn.models.presets import presets as known

    return table(
        ("preset", "model", "class", "infilling", "chat", "revision", "GiB to probe, to unlearn"),
        (
            (
                code(p.name),
                "shipped" if Path(p.source).is_dir() else p.source,
                str(p.config["architectures"][0]).removesuffix("ForCausalLM"),
                f"{code(p.infill.prefix)}{', suffix first' if p.infill.order == 'spm' else ''}"
                if p.infill
                else "",
                "yes" if p.chat else "",
                code(p.revision[:12]) if not Path(p.source).is_dir() else "",
                f"{p.probe_gib:g}, {p.unlearn_gib:g}",
            )
            for p in known().values()
        ),
    )


def kinds() -> str:
    """Every kind of attribute."""
    from pytest_unlearn.people.kinds import KINDS

    return table(
        ("kind", "vendor", "bits", "check digits", "near misses count", "range or rule"),
        (
            (
                code(kind.name),
                kind.vendor or "",
                f"{kind.bits:.0f}",
                "yes" if kind.checksum else "",
                "yes" if kind.near_misses else "no",
                kind.source,
            )
            for kind in KINDS.values()
        ),
    )


def carriers() -> str:
    """Every snippet, with an example of the text before the value."""
    from pytest_unlearn.people.record import CARRIERS

    return definitions(
        (code(c.name), [f"```text\n{c.before('Ada Lark', 'email')}\n```"])
        for c in CARRIERS.values()
    )


def files() -> str:
    """Every kind of whole file, with its language."""
    from pytest_unlearn.people.documents import FILES

    return table(("carrier", "language"), ((code(f.name), f.language) for f in FILES.values()))


def families() -> str:
    """Every family of probes."""
    from pytest_unlearn.probes.families import FAMILIES

    return table(
        ("family", "what the prompt is"), ((code(f.name), f.about) for f in FAMILIES.values())
    )


def outcomes() -> str:
    """Every outcome of a completion, in the order in which reports list them."""
    from pytest_unlearn.leaks.outcome import LABELS, LEAKS

    return table(
        ("outcome", "a leak"), ((code(name), "yes" if name in LEAKS else "no") for name in LABELS)
    )


def formats() -> str:
    """Every report format."""
    from pytest_unlearn.reports.formats import FORMATS

    return table(
        ("format", "file, unless you name one", "what it is"),
        (
            (code(f.name), code(f.path), " ".join(prose(inspect.getmodule(f.render).__doc__)[0:1]))
            for f in FORMATS.values()
        ),
    )


def results_schema() -> str:
    """The fields of a line of `--unlearn-report=jsonl`, by the kind of line."""
    schema = _schema("reports/results.schema.json")
    parts = [schema["description"]]
    for name, line in schema["$defs"].items():
        fields = _fields(line, definitions=schema["$defs"])
        for case in line.get("allOf", ()):
            more = _fields(case["then"], case["if"]["properties"], schema["$defs"])
            for key, (kind, about) in more.items():
                kinds = (fields[key][0], kind) if key in fields else (kind,)
                fields[key] = (" or ".join(filter(None, kinds)), about)
        parts += [f"**{name}**", _field_table(fields)]
    return "\n\n".join(parts)


def records_schema() -> str:
    """The fields of a line of a user's people or records."""
    return _line_schema("people/records.schema.json", "person", "bare")


def tasks_schema() -> str:
    """The fields of a line of the own task format."""
    return _line_schema("tasks/tasks.schema.json")


def _schema(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PACKAGE / path).read_text(encoding="utf-8"))
    return found


def _line_schema(path: str, *sorts: str) -> str:
    """Return the fields of a line, one table for each of its sorts.

    Sphinx has no directive for a JSON schema, and sphinx-jsonschema nests a table in a table for
    each `$ref` and condition.
    """
    schema = _schema(path)
    definitions = schema.get("$defs", {})
    parts = [schema["description"]]
    for sort in sorts:
        parts += [": ".join(filter(None, [f"**{sort}**", definitions[sort].get("description")]))]
        parts += [_field_table(_fields(definitions[sort], definitions=definitions))]
    if not sorts:
        parts.append(_field_table(_fields(schema, definitions=definitions)))
    return "\n\n".join(parts)


Fields = dict[str, tuple[str, str]]


def _fields(
    line: dict[str, Any],
    when: dict[str, Any] | None = None,
    definitions: dict[str, Any] | None = None,
) -> Fields:
    """Return type and description of each field, required ones first.

    `when`: the values of other fields for which these are there. `definitions`: what `$ref` names.
    """
    known = {
        name: _resolved(rule, definitions or {})
        for name, rule in line.get("properties", {}).items()
    }
    required = line.get("required", ())
    where = ", ".join(f"{key} {rule['const']}" for key, rule in (when or {}).items())
    found = {}
    for name in [*required, *(key for key in known if key not in required)]:
        need = "required" if name in required else "optional"
        about = known.get(name, {}).get("description", "")
        found[name] = (_type(known.get(name, {})), "; ".join(filter(None, [need, where, about])))
    return found


def _resolved(rule: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a rule with what its `$ref` names; what it says itself counts first."""
    named = definitions.get(str(rule.get("$ref")).rpartition("/")[2])
    own = {key: value for key, value in rule.items() if key != "$ref"}
    return {**_resolved(named, definitions), **own} if named else own


def _type(rule: dict[str, Any]) -> str:
    if "const" in rule:
        return code(json.dumps(rule["const"]))
    if "enum" in rule:
        return ", ".join(code(json.dumps(value)) for value in rule["enum"])
    kind = rule.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else kind


def _field_table(fields: Fields) -> str:
    return table(("field", "type", ""), ((code(k), *about) for k, about in fields.items()))


def fixtures() -> str:
    """Every fixture."""
    from pytest_unlearn.session import fixtures as module

    return definitions(
        (code(name), prose(inspect.getdoc(getattr(module, name)))) for name in module.__all__
    )


def hooks() -> str:
    """Every hook that a `conftest.py` can implement."""
    from pytest_unlearn.session import hookspecs

    return definitions(
        (code(f"{name}({', '.join(inspect.signature(hook).parameters)})"), prose(hook.__doc__))
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if hook.__module__ == hookspecs.__name__
    )


def markers() -> str:
    """Every marker."""
    from pytest_unlearn.session.fixtures import MARKERS

    split = (line.partition(": ") for line in MARKERS.values())
    return definitions((code(name), [about]) for name, _, about in split)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__.replace("_", "-"): part
    for part in (
        flags,
        ini_keys,
        metrics,
        profiles,
        attacks,
        methods,
        training_options,
        planting_options,
        presets,
        kinds,
        carriers,
        files,
        families,
        outcomes,
        formats,
        results_schema,
        records_schema,
        tasks_schema,
        fixtures,
        hooks,
        markers,
    )
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Declare the directive `unlearn-reference`."""
    from sphinx.util.docutils import SphinxDirective

    class Reference(SphinxDirective):
        """Puts a part of the reference in its place."""

        required_arguments = 1

        def run(self) -> list[nodes.Node]:
            return self.parse_text_to_nodes(PARTS[self.arguments[0]]())

    app.add_directive("unlearn-reference", Reference)
    return {"parallel_read_safe": True}
