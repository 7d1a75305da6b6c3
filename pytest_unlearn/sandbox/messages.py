"""Messages to and from a zygote, and from it to the process of a sample.

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys

LENGTH = struct.Struct(">I")
# Of a request: its length, the seconds that it may take, and the bytes that may come of it. With a
# length of 0 the judge wants no more of the current sample.
HEAD = struct.Struct(">IdI")


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def send(control: socket.socket, body: bytes) -> None:
    control.sendall(framed(body))


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


def hand_over(ours: socket.socket, request: bytes, channel: int | None) -> None:
    """Send a request to the process that waits for it, with the descriptor, which is closed."""
    data = memoryview(framed(request))
    # A process that has ended already is found out by watching it.
    with contextlib.suppress(OSError):
        if channel is not None:
            number = channel.to_bytes(4, sys.byteorder)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)]
            data = data[ours.sendmsg([data], rights) :]
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)  # A solution that reads there finds the end.
    if channel is not None:
        os.close(channel)
