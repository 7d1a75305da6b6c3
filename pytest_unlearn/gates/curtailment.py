"""Curtailment: a case is not run when it can change no verdict any more.

Exact, not sequential: a verdict counts as settled only when every outcome of the missing cases
gives the same one (`populations.settled_gate`), so the error rates of the gates stay what they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_unlearn.gates.gate import Gate
from pytest_unlearn.gates.populations import concerns, settled_gate
from pytest_unlearn.gates.verdicts import Measured

REASON = "curtailed: no outcome of this case can change a verdict any more"


class Curtailment:
    """Which gates have their verdict, noted in a file that other processes can read.

    The process that judges makes one with `start` and calls `update`; a worker opens it by path.
    """

    def __init__(self, gates: Sequence[Gate], cases: Sequence[object], path: Path) -> None:
        self.path = path
        self._gates = gates
        self._names = frozenset(gate.name for gate in gates)
        concerned = {gate.name: {case.id for case in concerns(gate, cases)} for gate in gates}
        self._gates_of = {
            str(case.id): frozenset(  # type: ignore[attr-defined]
                name
                for name, ids in concerned.items()
                if case.id in ids  # type: ignore[attr-defined]
            )
            for case in cases
        }
        # Looking again after each hundredth of the cases: to look costs a pass over all of them.
        self._step = max(1, len(cases) // 100)
        self._looked_at = 0
        self._settled: frozenset[str] = frozenset()
        self._read_at = -1

    @classmethod
    def start(cls, gates: Sequence[Gate], cases: Sequence[object], folder: Path) -> Curtailment:
        """Make the file, in a folder that exists, readable by its owner only."""
        handle, name = tempfile.mkstemp(dir=folder, prefix="settled-", suffix=".json")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("[]")
        return cls(gates, cases, Path(name))

    def update(self, measured: Measured) -> None:
        """Look which gates are settled by what was measured so far."""
        if len(measured.seen) < self._looked_at + self._step:
            return
        self._looked_at = len(measured.seen)
        now = self._settled | {
            gate.name
            for gate in self._gates
            if gate.name not in self._settled and settled_gate(gate, measured)
        }
        if now != self._settled:
            self._settled = now
            beside = self.path.with_suffix(".new")  # a reader never sees half of it
            beside.write_text(json.dumps(sorted(now)), encoding="ascii")
            beside.replace(self.path)

    def needless(self, case_id: str) -> bool:
        """Tell whether a case can change no verdict any more.

        A case that no gate counts is needless only when all gates are settled.
        """
        done = self._known()
        return done >= self._names or (
            bool(self._gates_of.get(case_id)) and done >= self._gates_of[case_id]
        )

    def _known(self) -> frozenset[str]:
        with contextlib.suppress(OSError, ValueError):  # gone: its process has ended
            changed = self.path.stat().st_mtime_ns
            if changed != self._read_at:
                self._settled = frozenset(json.loads(self.path.read_bytes()))
                self._read_at = changed
        return self._settled

    def end(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
