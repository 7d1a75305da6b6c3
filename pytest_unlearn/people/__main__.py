"""`python -m pytest_unlearn.people 5000:locales=all --out DIR` writes generated people to files.

The files are what `--unlearn-forget`, `--unlearn-retain` and `--unlearn-control` read, and hold the
same people as `--unlearn-people` with the same text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.people.generate import parse_people, write_people


def main(arguments: list[str] | None = None) -> int:
    """Write the people; return 0, or 2 with a message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pytest_unlearn.people", description=__doc__)
    parser.add_argument("order", metavar="N[:OPTIONS]", help="as for --unlearn-people")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--force", action="store_true", help="replace other people in DIR")
    chosen = parser.parse_args(arguments)
    try:
        facts = write_people(parse_people(chosen.order), chosen.out, chosen.force)
    except UserError as error:
        print(str(error).removeprefix("--unlearn-people: "), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{chosen.out}: {error.strerror}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{count} {split}" for split, count in facts["people"].items())
    print(
        f"{chosen.out}: {counts} people, {facts['records']} records; Faker {facts['faker']}, "
        f"seed {facts['seed']}, digest {facts['digest'][:16]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
