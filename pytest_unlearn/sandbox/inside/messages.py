"""Messages between the judge and a zygote.

To the zygote of solutions they are single bytes: FORK, and END for the child that runs. Every
answer is a length and an encoded tuple that begins with a word.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import socket
import struct
import sys

FORK, END, GONE = b"F", b"E", b""
LENGTH = struct.Struct(">I")
# Of a request for a check program: its length, the seconds that it may take, and the bytes that may
# come of it.
HEAD = struct.Struct(">IdI")
# The status of a launcher (`launcher.py`) that lacks a layer, or finds nothing to run.
FAILED = 97


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def send(control: socket.socket, body: bytes) -> None:
    control.sendall(framed(body))


def send_socket(control: socket.socket, body: bytes, end: socket.socket) -> None:
    number = end.fileno().to_bytes(4, sys.byteorder)
    # A message this short is sent whole.
    control.sendmsg([framed(body)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])


def receive(control: socket.socket) -> tuple[bytes, int | None, float, int] | None:
    """The next request, the descriptor that came with it, its seconds and the bytes that may come
    of it; None at the end."""
    start, fds, _, _ = socket.recv_fds(control, HEAD.size, 1)
    head = read(control, HEAD.size, start)
    if head is None:
        return None
    size, wall_s, most = HEAD.unpack(head)
    body = read(control, size)
    return None if body is None else (body, fds[0] if fds else None, wall_s, most)


def read(control: socket.socket, size: int, start: bytes = b"") -> bytes | None:
    data = bytearray(start)
    while len(data) < size:
        chunk = control.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
