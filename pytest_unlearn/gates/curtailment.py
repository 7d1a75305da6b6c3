"""Curtailment: a case is not run when every gate that counts it has failed for good.

Exact, not sequential: a gate counts as settled only when every outcome of the missing cases, an
error included, leaves it FAIL (`verdicts.fails_whatever`), so verdicts and exit code are those of
the whole run. A gate that passes is never settled early: its last case may end in an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_unlearn.gates.gate import Gate
from pytest_unlearn.gates.verdicts import Measured, concerns, fails_whatever

REASON = "curtailed: every gate that counts this case has failed, whatever it would bring"
# Stands for what is never settled early.
_COMPARED = "compared"


class Curtailment:
    """Which gates have failed for good, noted in a file that other processes can read.

    The process that judges makes one with `start` and calls `update`; a worker opens it by path.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        cases: Sequence[object],
        path: Path,
        compared: Sequence[Gate] = (),
        requests: bool = False,
    ) -> None:
        """`compared`: metrics whose change since a saved run is judged; their cases are all run.

        `requests`: the people to forget are asked in every way.
        """
        self.path = path
        self._gates = gates
        gates_of: dict[str, set[str]] = {}
        for gate, name in [(g, g.name) for g in gates] + [(g, _COMPARED) for g in compared]:
            for case in concerns(gate, cases, requests):
                gates_of.setdefault(str(case.id), set()).add(name)
        self._gates_of = gates_of
        # Looking again after each hundredth of the cases: to look costs a pass over all of them.
        self._step = max(1, len(cases) // 100)
        self._looked_at = 0
        self._settled: frozenset[str] = frozenset()
        self._read_at = -1

    @classmethod
    def start(
        cls,
        gates: Sequence[Gate],
        cases: Sequence[object],
        folder: Path,
        compared: Sequence[Gate] = (),
        requests: bool = False,
    ) -> Curtailment:
        """Make the file, in a folder that exists, readable by its owner only."""
        handle, name = tempfile.mkstemp(dir=folder, prefix="settled-", suffix=".json")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("[]")
        return cls(gates, cases, Path(name), compared, requests)

    def update(self, measured: Measured) -> None:
        """Look which gates are settled by what was measured so far."""
        if len(measured.seen) < self._looked_at + self._step:
            return
        self._looked_at = len(measured.seen)
        now = self._settled | {
            gate.name
            for gate in self._gates
            if gate.name not in self._settled and fails_whatever(gate, measured)
        }
        if now != self._settled:
            self._settled = now
            beside = self.path.with_suffix(".new")  # a reader never sees half of it
            beside.write_text(json.dumps(sorted(now)), encoding="ascii")
            beside.replace(self.path)

    def needless(self, case_id: str) -> bool:
        """Tell whether all gates that count a case have failed for good.

        A case that none counts is needless when all gates have.
        """
        counting = self._gates_of.get(case_id, {gate.name for gate in self._gates})
        return bool(counting) and counting <= self._known()

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
