"""How much does the plugin add to pytest's start, and how long does collecting the suite take?

    python benchmarks/startup.py [RUNS]

Prints the median wall seconds of whole processes, run in turn, and the differences.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "one test, without the plugin": ["-p", "no:unlearn", "test_one.py"],
    "one test, plugin inert": ["test_one.py"],
    "bundled suite, --collect-only": ["--unlearn-model=tiny", "--collect-only"],
}


def seconds(folder: Path, arguments: list[str]) -> float:
    """Return the wall seconds of one pytest process."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    """Time each command RUNS times (default 9), after one warm-up."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "test_one.py").write_text("def test_one(): pass\n")
        for run in range(runs + 1):
            for name, arguments in COMMANDS.items():
                taken = seconds(folder, arguments)
                if run:
                    measured[name].append(taken)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    for name, median in medians.items():
        print(f"{name:32} {median:7.3f} s")
    without, inert, _ = medians.values()
    print(f"{'the inert plugin adds':32} {1000 * (inert - without):7.1f} ms")


if __name__ == "__main__":
    main()
