"""From a completion to the program that is judged."""

from __future__ import annotations

import ast


def solution_source(prompt: str, completion: str, entry_point: str) -> str:
    """Return the longest run of whole lines of prompt and completion that is a Python program
    defining `entry_point`, without what the model wrote after that function.

    A completion of a code model runs on: another function, a half-finished line, prose. The
    syntax tree says where the function ends; imports and definitions before it are kept, calls
    at module level after it are not run. When nothing parses, the text is returned as it is, so
    that the judge reports the syntax error.
    """
    text = prompt.rstrip() + completion
    lines = text.splitlines(keepends=True)
    for count in range(len(lines), 0, -1):
        source = "".join(lines[:count])
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        ends = [
            node.end_lineno
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point
        ]
        if ends:
            # The first definition is the one that the prompt opened.
            return "".join(lines[: ends[0]])
    return text
