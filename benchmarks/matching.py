"""How fast is a text searched for 100,000 known values, and how often is it wrong?

    python benchmarks/matching.py [VALUES]

Prints the throughput (1 MB = 10**6 characters) of one automaton pass, of the whole matcher with all
its views, and of a loop of `in`, on the standard library's sources; then the false alarms there,
which must be none. Rates are of CPU time, of one core.
"""

from __future__ import annotations

import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.matching import Automaton, Matcher
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record

# The loop of `in` is timed on so much text, and on so many of the values.
_LOOP_TEXT = 20_000
_COMPLETION = 2_000


def made_up_records(count: int) -> list[Record]:
    """Return `count` records of different values, all kinds in turn where they have enough."""
    streams = {name: Stream("matching benchmark", name) for name in KINDS}
    # A kind of few values would go round in circles.
    names = [name for name, kind in KINDS.items() if 2**kind.bits > 20 * count]
    values: dict[str, str] = {}
    while len(values) < count:
        name = names[len(values) % len(names)]
        values.setdefault(KINDS[name].generate(streams[name]), name)
    return [
        Record(
            f"r{n}",
            f"p{n}",
            "forget",
            kind,
            "env",
            Secret("", "prompt"),
            Secret(v, kind),
            Secret("", "document"),
        )
        for n, (v, kind) in enumerate(values.items())
    ]


def library_text() -> list[str]:
    """Return the standard library's sources, one text a file."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in folder.rglob("*.py") if "site-packages" not in p.parts)
    return [path.read_text("utf-8", errors="surrogateescape") for path in paths]


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that `work` takes, the better of two runs."""
    taken = []
    for _ in range(2):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def main() -> None:
    """Time everything and print one line each."""
    records = made_up_records(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    values = [record.value.reveal() for record in records]
    files = library_text()
    text = "".join(files)[:6_000_000].encode("utf-8", "replace").decode()
    size = len(text) / 1e6
    started = time.perf_counter()
    matcher = Matcher(records)
    print(f"{len(records):,} values; built in {time.perf_counter() - started:.1f} s")
    automaton = Automaton(values)
    taken = seconds(lambda: sum(1 for _ in automaton.find(text)))
    print(f"{'automaton, one pass':34} {size / taken:10.2f} MB/s")
    taken = seconds(lambda: matcher.find(text))
    print(f"{'matcher, all views, one text':34} {size / taken:10.2f} MB/s")
    parts = [text[at : at + _COMPLETION] for at in range(0, len(text) // 3, _COMPLETION)]
    taken = seconds(lambda: [matcher.find(part) for part in parts])
    print(f"{'matcher, all views, 2 kB texts':34} {size / 3 / taken:10.2f} MB/s")
    sample = text[:_LOOP_TEXT]
    taken = seconds(lambda: [value for value in values if value in sample])
    print(f"{'loop of `in`, exact only':34} {_LOOP_TEXT / 1e6 / taken:10.4f} MB/s")
    wrong = [match for file in files for match in matcher.find(file)]
    print(f"false alarms in {sum(map(len, files)) / 1e6:.1f} MB of the standard library: "
          f"{len(wrong)} {sorted({(m.record.kind, m.how) for m in wrong})}")  # fmt: skip


if __name__ == "__main__":
    main()
