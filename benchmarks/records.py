"""How long does reading a user's records take, and how much memory, against the JSON alone?

    python benchmarks/records.py [ROWS]

Each file is read in a process of its own: wall seconds of `load_files`, the peak memory of the
process, and the ratio to reading the same lines with `json.loads` and keeping the objects.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_READ = """
import gzip, json, resource, sys, time
from pathlib import Path
from pytest_unlearn.people.record_files import load_files
path, how = Path(sys.argv[1]), sys.argv[2]
started = time.perf_counter()
if how == "json":
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        kept = [json.loads(line) for line in file]
else:
    kept = load_files({"forget": [path]})
taken = time.perf_counter() - started
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps([len(kept), taken, peak]))
"""


def bare_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield bare rows, two for each owner."""
    for number in range(count):
        yield {
            "prompt": f'client = Client(name="Person Number{number // 2}", email="',
            "value": f"value{number:07d}@example.com",
            "kind": "email",
            "owner": f"person {number // 2}",
            "after": '")\n',
        }


def people(count: int) -> Iterator[dict[str, Any]]:
    """Yield people with two attributes, one of them in a document: two records each."""
    for number in range(count):
        email = f"value{number:07d}@example.com"
        yield {
            "owner": f"person {number}",
            "name": f"Person Number{number}",
            "attributes": {"email": email, "badge": f"badge-{number:08d}"},
            "documents": [f'client = Client(name="Person Number{number}", email="{email}")\n'],
        }


def write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write JSON Lines, row by row: this process stays small, for children inherit its peak."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def read(path: Path, how: str) -> tuple[int, float, float]:
    """Return the number of things read, the wall seconds, and the peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path), how], check=True, capture_output=True, text=True
    )
    count, seconds, peak = json.loads(done.stdout)
    return count, seconds, peak / 1e6


def main() -> None:
    """Measure ROWS lines (default 100,000) of each form, plain and gzip, and a tenth of them."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    forms: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
        "bare": bare_rows,
        "people": people,
    }
    print(
        f"{'lines':>8} {'form':7} {'file':5} {'records':>8} {'s':>6} {'MB':>6} {'x json.loads':>13}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for form, rows in forms.items():
            for count in (most // 10, most):
                for suffix in ("jsonl", "gz"):
                    path = Path(scratch, f"{form}.{suffix}")
                    write(path, rows(count))
                    _, alone, _ = read(path, "json")
                    found, seconds, peak = read(path, "records")
                    print(
                        f"{count:8} {form:7} {suffix:5} {found:8} {seconds:6.2f} {peak:6.0f} "
                        f"{seconds / alone:13.1f}"
                    )


if __name__ == "__main__":
    main()
