"""Do all canonical solutions of task files pass their own tests in the sandbox?

    python benchmarks/canonical.py [--seconds S] FILE.jsonl[.gz] ...

For files of your own copy: MBPP (`mbpp.jsonl`), EvalPlus (`HumanEvalPlus.jsonl.gz`,
`MbppPlus.jsonl.gz`), HumanEval or the own format. Prints a line for each file and one for each task
that does not pass, with the reason: a task that fails here fails for every model.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_unlearn.sandbox import Limits, Sandbox, SandboxError
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.files import load_cases
from pytest_unlearn.tasks.format import TaskCase

WORKERS = 2


def judge_share(cases: list[TaskCase], core: int, seconds: float) -> dict[str, tuple[str, str]]:
    """Return status and detail by task, judged one after the other on one core."""
    found = {}
    with Sandbox(Limits(wall_s=seconds), core=core) as sandbox:
        for case in cases:
            if case.solution is None:
                continue
            text = f"\n{case.solution}"
            source = solution(case.prompt, text, case.entry_point, case.suffix).source
            try:
                limit = case.time_limit(seconds)
                verdict = sandbox.run(source, case.entry_point, case.tests, limit)
            except SandboxError as error:
                found[case.id] = ("not judged", str(error))
            else:
                found[case.id] = (verdict.status, verdict.detail)
    return found


def judge_file(path: Path, seconds: float) -> None:
    """Print how many canonical solutions of a file pass, and what is the matter with the others."""
    cases = load_cases(path)
    started = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [list(cases[number::WORKERS]) for number in range(WORKERS)]
        parts = pool.map(judge_share, shares, itertools.count(), itertools.repeat(seconds))
        found = {name: said for part in parts for name, said in part.items()}
    taken = time.perf_counter() - started
    counts = Counter(status for status, _ in found.values())
    rest = ", ".join(f"{status} {n}" for status, n in counts.most_common() if status != "passed")
    print(f"{path.name}: {counts['passed']} of {len(found)} pass in {taken:.0f} s  {rest}")
    for name, (status, detail) in sorted(found.items()):
        if status != "passed":
            print(f"    {name}: {status}: {detail[:200]}")


def main() -> None:
    """Judge each file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="limit of one solution")
    arguments = parser.parse_args()
    for path in arguments.files:
        judge_file(path, arguments.seconds)


if __name__ == "__main__":
    main()
