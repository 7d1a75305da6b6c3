"""The code blocks of a page, and the commands in its console blocks."""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, settings

import pytest_unlearn
from pytest_unlearn.gates.gate import gates_in_table
from pytest_unlearn.gates.judging import read_judging
from pytest_unlearn.models.endpoint_client import parse_address
from pytest_unlearn.models.engine import is_address
from pytest_unlearn.models.presets import TINY_FOLDER, installed_presets
from pytest_unlearn.models.sources import check_name
from pytest_unlearn.people.__main__ import main as write_people
from pytest_unlearn.reports.formats import choose_reports
from pytest_unlearn.run.settings import Pair
from pytest_unlearn.session.options import given, is_active, take_extensions
from pytest_unlearn.session.sweep import read_grid
from pytest_unlearn.unlearning.method import check_processes
from pytest_unlearn.unlearning.methods import RETRAIN
from tests.support.lookup_run import task_lines, write_lines

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^(?P<ticks>```+)(?P<language>[\w{}-]*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=ticks)$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w./-]+\.\w+)(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `note` is the comment above it, which says how it is run."""

    language: str
    text: str
    line: int
    note: str

    @property
    def file(self) -> str | None:
        """The name in a first line such as `# test_mine.py`: the block is that file."""
        found = _FILE.match(self.text)
        return found.group(1) if found else None


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block, and the lines that the page shows under it."""

    text: str
    words: tuple[str, ...]
    shown: tuple[str, ...]
    variables: dict[str, str]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("ticks")) + 1
        yield Block(found["language"], found["text"], line, found["note"] or "")


def commands(console: str) -> Iterator[Command]:
    """Yield the commands of a console block; what is joined by `&&` one by one."""
    prompts: list[tuple[str, list[str]]] = []
    for line in console.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            prompts.append((line[2:], []))
        elif prompts:
            prompts[-1][1].append(line)
        else:
            raise ValueError(f"{line!r} stands before the first prompt")
    for text, shown in prompts:
        yield from _commands(text, tuple(shown))


def _commands(text: str, shown: tuple[str, ...]) -> Iterator[Command]:
    part: list[str] = []
    # A comment begins a word: in a shell, the # of an address does not.
    for word in [*shlex.split(re.sub(r"(^|\s)#.*", "", text)), "&&"]:
        if word in ("&&", "|", ";"):
            yield _command(text, part, shown)
            part = []
        else:
            part.append(word)


def _command(text: str, words: list[str], shown: tuple[str, ...]) -> Command:
    variables = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if words[:3] == ["python", "-m", "pytest"]:
        words = words[2:]
    return Command(text, tuple(words), shown, variables)


PACKAGE = Path(pytest_unlearn.__file__).parent


# What no test can run: it installs, builds, or is the project's whole check.
NOT_RUN = re.compile(r"(python3? -m (venv|build)|pip|sphinx-build|\.|\.ci/run)( .*)?")


# What trains without a test, alone or under a launcher.
TRAIN = "pytest_unlearn.train"


# What commands find in the folder of every page besides people and tasks.
FOLDERS = ("my-model", "my-base", "retrained")


@contextlib.contextmanager
def few_examples() -> Iterator[None]:
    """Let Hypothesis draw little, at the speed of a busy machine, and keep nothing."""
    before = settings.get_current_profile_name()
    settings.register_profile(
        "pages",
        max_examples=5,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("pages")
    try:
        yield
    finally:
        settings.load_profile(before)


def started(launcher: Sequence[str]) -> int:
    """Return how many processes a command line up to the module's name would start.

    Raises SystemExit for a flag that the launcher does not know.
    """
    if launcher[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert launcher[1] == "launch"
        read = launch_command_parser().parse_args(launcher[2:])
        assert (read.module, read.use_fsdp) == (True, True)
        return int(read.num_processes)
    if launcher[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        read = get_args_parser().parse_args(launcher[1:])
        assert read.module
        return int(read.nproc_per_node)
    assert launcher == ("python", "-m", TRAIN)
    return 1


class Scene:
    """One page's folder, and the names that its Python blocks share."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.monkeypatch = monkeypatch
        self.names: dict[str, Any] = {"__name__": "__page__"}
        self.folder = pytester.path
        self.people("60:kinds=email,per_person=1,carriers=constructor", "--out", ".")
        (self.folder / "requests").mkdir()
        asked = (self.folder / "forget.jsonl").read_text().splitlines(keepends=True)
        for number in (1, 2):
            lines = "".join(asked[number::10])
            (self.folder / "requests" / f"2026-0{number}.jsonl").write_text(lines)
        write_lines(self.folder / "tasks.jsonl", task_lines(30))
        for name in FOLDERS:
            (self.folder / name).symlink_to(TINY_FOLDER)
        self.pytester.syspathinsert()

    # -- files and Python --------------------------------------------------------------------

    def python(self, block: Block) -> None:
        code = compile(block.text, f"line {block.line}", "exec")
        if block.file:
            (self.folder / block.file).write_text(block.text)
        else:
            with few_examples():
                exec(code, self.names)  # noqa: S102

    def toml(self, block: Block) -> None:
        table = tomllib.loads(block.text)
        path = self.folder / (block.file or "elsewhere.toml")
        path.write_text(block.text)
        project = table.get("project", {})
        gates = gates_in_table(path)
        read_judging(lambda name: None, path)
        pytest_keys = {**table.get("tool", {}).get("pytest", {})}
        keys = pytest_keys.pop("ini_options", pytest_keys)
        assert gates or keys or project
        if keys:
            self.settings([])
        for group, points in project.get("entry-points", {}).items():
            modules = {where.partition(":")[0] for where in points.values()}
            assert modules <= set(table["tool"]["setuptools"]["py-modules"])
            self.install(project["name"], group, points)

    def install(self, name: str, group: str, points: dict[str, str]) -> None:
        """Put a package's entry points where `importlib.metadata` finds them, as pip would."""
        folder = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(exist_ok=True)
        installed_presets.cache_clear()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        with (folder / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))

    def ini(self, block: Block) -> None:
        parser = configparser.ConfigParser()
        parser.read_string(block.text)
        assert parser.sections() == ["pytest"]
        (self.folder / "pytest.ini").write_text(block.text)
        self.settings([])

    def jsonl(self, block: Block) -> None:
        for line in block.text.splitlines():
            row = json.loads(line)
            name = "tasks/tasks" if "entry_point" in row else "people/records"
            schema = json.loads((PACKAGE / f"{name}.schema.json").read_text())
            jsonschema.validate(row, schema)

    def yaml(self, block: Block) -> None:
        assert yaml.safe_load(block.text)

    # -- commands ----------------------------------------------------------------------------

    def console(self, block: Block) -> None:
        for command in commands(block.text):
            if command.words[:1] == ("pytest",):
                self.pytest(command, block.note)
            elif TRAIN in command.words:
                self.train(command)
            elif command.words[:3] == ("python", "-m", "pytest_unlearn.people"):
                self.people(*command.words[3:])
            elif command.words[0] == "python":
                self.script(command)
            elif command.words[0] == "head":
                subprocess.run(command.text, shell=True, check=True, cwd=self.folder)
            else:
                assert NOT_RUN.fullmatch(shlex.join(command.words)), command

    def script(self, command: Command) -> None:
        """Run a file of the page; of the project's own, only look at the flags."""
        name = command.words[1]
        flags = [word.partition("=")[0] for word in command.words[2:] if word.startswith("--")]
        if name == "-m":
            name = f"{command.words[2].replace('.', '/')}.py"
        if (ROOT / name).is_file():
            source = (ROOT / name).read_text()
            assert not [flag for flag in flags if f'"{flag}"' not in source]
        else:
            self.run_file((self.folder / name).read_text())

    def people(self, *arguments: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            assert write_people(list(arguments)) == 0

    def train(self, command: Command) -> None:
        """Read the launcher's flags as it would, and the others as a run would."""
        place = command.words.index(TRAIN)
        processes = started(command.words[: place + 1])
        (pair,) = self.settings(list(command.words[place + 1 :]))
        method, options = pair.settings.method.method, pair.settings.method.options
        if processes == 1:
            assert method or pair.settings.method.retrains or pair.settings.plant
        else:
            assert method
            assert options
            check_processes(method, options, processes)

    def run_file(self, source: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            exec(source, {"__name__": "__main__"})  # noqa: S102

    def pytest(self, command: Command, note: str) -> None:
        with self.monkeypatch.context() as patch:
            for name, value in command.variables.items():
                patch.setenv(name, value)
            self._pytest(command, note)

    def _pytest(self, command: Command, note: str) -> None:
        arguments = list(command.words[1:])
        told = dict(re.findall(r"(\w+)=(\w+)", note))
        exit_code = int(told.pop("exit", 0))
        if note.startswith("lookup"):
            self.lookup(**told)
            result = self.pytester.runpytest_inprocess(*arguments)
        elif exit_code or command.shown:
            result = self.pytester.runpytest_inprocess(*arguments)
        else:
            self.settings(arguments)
            return
        assert result.ret == exit_code
        lines = [line.replace("[", "[[]") for line in command.shown]
        printed = result.stderr if exit_code == pytest.ExitCode.USAGE_ERROR else result.stdout
        printed.fnmatch_lines(lines)

    def lookup(self, leaking: str = "0") -> None:
        """Answer all prompts by looking them up; so many forget probes leak."""
        self.pytester.makeconftest(
            f"""
from pytest_unlearn.testing import LookupModels

def pytest_unlearn_models(dataset):
    forget = [probe.id for probe in dataset.probes if probe.split == "forget"]
    return LookupModels(dataset, leaking=forget[:{int(leaking)}])
"""
        )

    def settings(self, arguments: list[str]) -> tuple[Pair, ...]:
        """Read flags, ini file and table as a run would, without data and without a model.

        Return the pairs of an active run.
        """
        config = self.pytester.parseconfig(*arguments)
        take_extensions(config)
        pairs = read_grid(config) if is_active(config) else ()
        sweeps = len(pairs) > 1
        choose_reports(config.getoption("unlearn_report") or (), self.folder, {}, sweeps)
        read_judging(lambda name: given(config, name), self.folder / "pyproject.toml")
        for pair in pairs:
            chosen = pair.settings
            for name in (chosen.model, chosen.baseline, chosen.retrained):
                if is_address(name):
                    parse_address(str(name), "--unlearn-model")
                elif name and name != RETRAIN:
                    check_name(name, "--unlearn-model", chosen.revision, chosen.trusted)
            for path in (*chosen.forget, *chosen.retain, *chosen.control, *chosen.tasks):
                assert isinstance(path, str) or path.is_file()
        config._ensure_unconfigure()  # what the page's conftest brought is known no longer
        return pairs
