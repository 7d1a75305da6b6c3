"""The code blocks of a page, and the commands in its console blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
