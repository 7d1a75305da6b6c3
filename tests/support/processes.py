"""What became of a process."""

from __future__ import annotations

import time
from pathlib import Path


def gone(pid: int, patience_s: float = 5.0) -> bool:
    """Return whether process `pid` ended, waiting up to `patience_s` seconds for it."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # It ended; reaping it is init's business.
            return True
        time.sleep(0.02)
    return False
