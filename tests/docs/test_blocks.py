"""Every code block of the README and of docs/ is run, or read by what would read it.

A page is a scenario: its blocks are taken in order, in one folder. A block whose first line is a
comment with a file's name is that file. In console blocks, pytest is run where a comment above the
block says so (`<!-- lookup: leaking=3, exit=1 -->`: on the lookup backend, with so many leaks, to
that exit code), and what the page shows must be what it prints, `*` standing for anything.
All other flags go through pytest's parser and the plugin's checks: a wrong flag, method, gate or
profile fails.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
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
from tests.support.doc_blocks import PAGES, ROOT, Block, Command, blocks, commands
from tests.support.lookup_run import task_lines, write_lines

PACKAGE = Path(pytest_unlearn.__file__).parent
# What no test can run: it installs, builds, or is the project's whole check.
NOT_RUN = re.compile(r"(python3? -m (venv|build)|pip|sphinx-build|\.|\.ci/run)( .*)?")
# What trains without a test, alone or under a launcher.
TRAIN = "pytest_unlearn.train"
# Shown, and read by nobody but people.
PROSE = {"", "text", "{toctree}", "{unlearn-reference}", "{literalinclude}"}
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks(page: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page work, in the order in which a reader meets them."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    scene = Scene(pytester, monkeypatch)
    for block in blocks(page):
        if block.language in PROSE:
            continue
        run: Callable[[Block], None] = getattr(scene, block.language)
        try:
            run(block)
        except (Exception, SystemExit, pytest.fail.Exception) as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error
    installed_presets.cache_clear()
