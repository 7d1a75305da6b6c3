"""`python -m pytest_unlearn.merge STORE SHARD...` merges the stores of shards.

Each machine measured its part (`--unlearn-shard=3/8`). The merged store holds all parts, and
`--unlearn-store=STORE --unlearn-replay` with the flags of the shards judges it as one run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.run.noted_runs import merge


def main(arguments: list[str] | None = None) -> int:
    """Merge; return 0, or 2 with a message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pytest_unlearn.merge", description=__doc__)
    parser.add_argument("store", type=Path, help="the store to merge into; may be new")
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="a shard's store")
    chosen = parser.parse_args(arguments)
    try:
        new = merge(chosen.store, chosen.shards)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{chosen.store}: {new} new entries from {len(chosen.shards)} stores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
