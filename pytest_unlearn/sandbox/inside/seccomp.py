"""The system calls that a solution may not make, as a filter that the kernel runs.

It is a list of denied calls, because a list of allowed ones breaks with each new C library. To keep
it from going stale, every call that is newer than the table fails as if the kernel lacked it
(ENOSYS). So does `clone3`: its flags are behind a pointer, where no filter can see them, and the C
library then falls back to `clone`. Numbers are those of Linux' `asm/unistd_64.h` and
`asm-generic/unistd.h` (aarch64).

The zygote loads this file by its path: it must import nothing but the standard library.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

# The last call of the tables: set_mempolicy_home_node, Linux 5.17.
HIGHEST = 450
X32_BIT = 0x40000000
CLONE_THREAD = 0x00010000
AF_UNIX = 1
SOCK_STREAM = 1
# Type of a socket without its flags.
SOCK_TYPE = 0xF
# Attributes and size of terminals, whether there is something to read, and a descriptor's flags.
# Others send signals (FIOASYNC, FIOSETOWN), type into terminals, or reveal the machine's addresses
# (SIOCGIFCONF, which any socket answers).
IOCTL_ALLOWED = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# Which process gets which signal when a descriptor is ready (F_SETOWN, F_SETSIG, F_SETOWN_EX);
# leases and watched folders (F_SETLEASE, F_NOTIFY), which also send signals.
FCNTL_DENIED = (8, 10, 15, 1024, 1026)
F_SETFL, O_ASYNC = 4, 0o20000
# PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: what the C library and Python's threads use.
PRCTL_ALLOWED = (15, 16, 0x53564D41)
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC; O_TMPFILE needs one of the first two.
OPEN_WRITING = 0o1 | 0o2 | 0o100 | 0o1000
# O_TRUNC empties a file even if it is opened for reading; Landlock prevents that since version 3.
O_ACCMODE, O_TRUNC = 0o3, 0o1000

# Same numbers everywhere since Linux 5.1.
_UNIFIED = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
}


def _table(names: str, numbers: str) -> dict[str, int]:
    pairs = zip(names.split(), numbers.split(), strict=True)
    return {name: int(number) for name, number in pairs if number != "-"}


# Network, processes, other processes' memory, mounts, keys, clocks and the kernel itself; System V
# objects, whose numbers can be guessed; metadata of files; watching folders.
_NAMES = """
    socket connect accept accept4 bind listen fork vfork execve execveat ptrace process_vm_readv
    process_vm_writev kcmp mount umount2 pivot_root chroot unshare setns bpf perf_event_open
    userfaultfd keyctl add_key request_key chmod fchmod fchmodat chown fchown lchown fchownat
    utime utimes futimesat utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr
    fremovexattr truncate mknod mknodat shmget shmat msgget semget mq_open mq_unlink memfd_create
    syslog acct swapon swapoff reboot sethostname setdomainname kexec_load kexec_file_load
    init_module finit_module delete_module quotactl settimeofday clock_settime adjtimex
    clock_adjtime personality modify_ldt iopl ioperm name_to_handle_at open_by_handle_at vhangup
    uselib seccomp setpriority sched_setaffinity sched_setparam sched_setscheduler sched_setattr
    ioprio_set migrate_pages move_pages sync syncfs rt_sigqueueinfo rt_tgsigqueueinfo fanotify_init
    shmctl msgsnd msgrcv msgctl semop semctl semtimedop
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr readlink readlinkat
    statfs fstatfs ustat inotify_init inotify_init1 inotify_add_watch
    clone kill tkill tgkill prctl ioctl fcntl socketpair prlimit64
    open openat creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir symlink
    symlinkat link linkat
"""
TABLES = {
    "x86_64": _UNIFIED
    | _table(
        _NAMES,
        """
    41 42 43 288 49 50 57 58 59 322 101 310
    311 312 165 166 155 161 272 308 321 298
    323 250 248 249 90 91 268 92 93 94 260
    132 235 261 280 188 189 190 197 198
    199 76 133 259 29 30 68 64 240 241 319
    103 163 167 168 169 170 171 246 320
    175 313 176 179 164 227 159
    305 135 154 172 173 303 304 153
    134 317 141 203 142 144 314
    251 256 279 162 306 129 297 300
    31 69 70 71 65 66 220
    191 192 193 194 195 196 89 267
    137 138 136 253 294 254
    56 62 200 234 157 16 72 53 302
    2 257 85 87 263 82 264 316 83 258 84 88
    266 86 265
""",
    ),
    "aarch64": _UNIFIED
    | _table(
        _NAMES,
        """
    198 203 202 242 200 201 - - 221 281 117 270
    271 272 40 39 41 51 97 268 280 241
    282 219 217 218 - 52 53 - 55 - 54
    - - - 88 5 6 7 14 15
    16 45 - 33 194 196 186 190 180 181 279
    116 89 224 225 142 161 162 104 294
    105 273 106 60 170 112 171
    266 92 - - - 264 265 58
    - 277 140 122 118 119 274
    30 238 239 81 267 138 240 262
    195 189 188 187 193 191 192
    8 9 10 11 12 13 - 78
    43 44 - - 26 27
    220 129 130 131 167 29 25 199 261
    - 56 - - 35 - 38 276 - 34 - -
    36 - 37
""",
    ),
}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Denied only if nothing else keeps files from being changed: Landlock allows writing to /dev/null.
WRITING = (
    "creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir symlink symlinkat link "
    "linkat"
).split()
_OPENING = ("open", "openat")
_BY_ARGUMENT = "clone kill tkill tgkill prctl ioctl fcntl socketpair prlimit64".split()
_ABSENT = ("clone3", "openat2")
# Starting, watching, confining and killing the processes of solutions.
OF_A_ZYGOTE = (
    "clone fork vfork kill tkill tgkill prctl prlimit64 pidfd_open pidfd_send_signal unshare setns"
).split()

_LOAD, _AND, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN = (
    0x20,
    0x54,
    0x15,
    0x25,
    0x35,
    0x45,
    0x06,
)
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]


def build(machine: str, deny_writing: bool, allowed: Sequence[str] = ()) -> bytes:
    """Return the filter for what neither a solution nor the zygote needs, an array of
    `struct sock_filter`.

    `deny_writing`: also deny every call that makes, changes or removes a file. `allowed`: calls
    that are let through nevertheless. Raises KeyError for a machine without a table.
    """
    table = {name: number for name, number in TABLES[machine].items() if name not in allowed}
    absent = _return(_ERRNO | errno.ENOSYS)
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        _return(_KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, X32_BIT), _return(_KILL)]
    steps += [(_GREATER, 0, 1, HIGHEST), absent]
    denied = []
    for name, number in table.items():
        if name in _ABSENT:
            steps += [(_EQUAL, 0, 1, number), absent]
        elif name in _OPENING:
            flags = _argument(1 if name == "open" else 2)
            emptying = [(_AND, 0, 0, O_ACCMODE | O_TRUNC), (_EQUAL, 0, 1, O_TRUNC)]
            refused = [(_ANY_BIT, 0, 1, OPEN_WRITING)] if deny_writing else emptying
            steps += _block(number, [flags, *refused, _return(_ERRNO | errno.EPERM)])
        elif name in _BY_ARGUMENT and name not in OF_A_ZYGOTE:
            steps += _block(number, _arguments(name, 0))
        elif name not in OF_A_ZYGOTE and (name not in WRITING or deny_writing):
            denied.append(number)
    return _packed(steps, denied)


def build_own(machine: str, pid: int) -> bytes:
    """Return the filter for what a zygote needs and a solution does not, on top of the other.

    The other filter has refused calls of another machine, whose numbers mean something else; the
    strictest of several filters counts. It is short because the kernel translates it again for each
    solution. `pid`: the process's own number, the only one that it may signal.
    """
    table = TABLES[machine]
    steps: list[Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    for name in _BY_ARGUMENT:
        if name in OF_A_ZYGOTE:
            steps += _block(table[name], _arguments(name, pid))
    plain = [name for name in OF_A_ZYGOTE if name in table and name not in _BY_ARGUMENT]
    return _packed(steps, [table[name] for name in plain])


def _packed(steps: list[Instruction], denied: Sequence[int]) -> bytes:
    """Return the program, including the calls that are denied with any arguments."""
    # One step each, and a jump over the last but one.
    steps += [(_EQUAL, len(denied) - n, 0, number) for n, number in enumerate(denied)]
    steps += [_return(_ALLOW), _return(_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _arguments(name: str, pid: int) -> list[Instruction]:
    """Return the steps for a call that is allowed with some arguments; falling through allows."""
    denied = _return(_ERRNO | errno.EPERM)
    if name == "clone":
        return [_argument(0), (_ANY_BIT, 1, 0, CLONE_THREAD), denied]
    if name in ("kill", "tkill", "tgkill"):
        return [_argument(0), (_EQUAL, 1, 0, pid), denied]
    if name == "prlimit64":
        return [_argument(0), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid), denied]
    if name == "prctl":
        first, second, third = PRCTL_ALLOWED
        return [
            _argument(0),
            (_EQUAL, 3, 0, first),
            (_EQUAL, 2, 0, second),
            (_EQUAL, 1, 0, third),
            denied,
        ]
    if name == "ioctl":
        last = len(IOCTL_ALLOWED)
        known = [(_EQUAL, last - n, 0, number) for n, number in enumerate(IOCTL_ALLOWED)]
        return [_argument(1), *known, denied]
    if name == "fcntl":
        last = len(FCNTL_DENIED) + 2
        known = [(_EQUAL, last - n, 0, number) for n, number in enumerate(FCNTL_DENIED)]
        flags = [(_EQUAL, 0, 3, F_SETFL), _argument(2), (_ANY_BIT, 0, 1, O_ASYNC)]
        return [_argument(1), *known, *flags, denied]
    # A pair of connected streams reaches no other process; asyncio needs one.
    return [
        _argument(0),
        (_EQUAL, 0, 3, AF_UNIX),
        _argument(1),
        (_AND, 0, 0, SOCK_TYPE),
        (_EQUAL, 1, 0, SOCK_STREAM),
        denied,
    ]


def _block(number: int, steps: list[Instruction]) -> list[Instruction]:
    """Return steps that are run for one call only, and end in its being allowed."""
    return [(_EQUAL, 0, len(steps) + 1, number), *steps, _return(_ALLOW)]


def _argument(index: int) -> Instruction:
    """Return the step that loads the lower half of an argument: all of a C int."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)
