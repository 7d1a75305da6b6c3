"""What is done once in the zygote, so that no child has to do it: imports, and a rehearsal.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    # The zygote puts these two in place.
    from pytest_unlearn.sandbox import child, messages

# What solutions usually import, so that not each of them pays for it. Not what few do: each fork
# pays for what is loaded.
PRELOAD = (
    "bisect collections copy datetime functools heapq itertools json math operator random re "
    "resource string typing"
).split()
# A solution of our own, of what most solutions are made of, run often enough for Python to
# specialize what runs it.
REHEARSALS = 40
REHEARSED = """
from typing import List, Dict
import math
def f(number: int, words: List[str]) -> Dict[str, int]:
    \"\"\"Count.\"\"\"
    found = {}
    for place, word in enumerate(words):
        if len(word) > 1 and not word.startswith("x") or number in (1, 2.5):
            found[word.lower()] = found.get(word, 0) + place % 3
        else:
            try:
                found[f"{word}"] = int(math.sqrt(number)) // 2
            except ValueError as error:
                raise KeyError(word) from error
    while number > 0:
        number -= 1
    return {k: max(v, -1) for k, v in sorted(found.items(), key=lambda pair: pair[0])}
"""
REHEARSED_ARGUMENTS = (3, ["one", "two", "x"])
ROOM = 1 << 16


def preload(packages: Sequence[str]) -> None:
    """Import what solutions usually import, and the installed packages that they may."""
    # The module random would draw a new seed in each child, which takes long and makes verdicts
    # on solutions that draw numbers differ from run to run.
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.register_at_fork = register
    sys.modules["random"].seed(0)
    for name in packages:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def rehearse(control: socket.socket, codec: Any) -> None:
    """Do in the zygote what its children will do. `control`: its socket, whose number they use.

    Python keeps what it finds out while code runs (looked-up methods, specialized
    instructions, addresses of functions). Each child would find it out anew, and copy the
    pages where it is kept.
    """
    kept = os.dup(child.RESULT_FD)
    call = codec.encode((REHEARSED_ARGUMENTS, {}), max_bytes=ROOM)
    calls = [codec.encode(REHEARSED_ARGUMENTS, max_bytes=ROOM)]
    for number in range(REHEARSALS):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            os.dup2(theirs.fileno(), child.RESULT_FD)
            by_program = number % 2
            fields = (REHEARSED, "f", None if by_program else calls, ROOM, 1)
            messages.send(ours, codec.encode(fields, max_bytes=ROOM))
            source, name, given, room, _ = child.await_request(control, codec)
            if by_program:
                messages.send(ours, call)
                ours.shutdown(socket.SHUT_WR)
                child.answer(source, name, room, codec)
            else:
                child.run(source, name, given, room, codec)
    os.dup2(kept, child.RESULT_FD, inheritable=False)
    os.close(kept)
