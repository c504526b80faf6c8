"""Takes from this process the means to start another: a copy would outlive the service's signals.

A limit of the number of processes (``RLIMIT_NPROC``) would not do: it counts all of a user's, and
does not hold for root. So it is a filter of system calls (Linux, seccomp(2)).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from dataclasses import dataclass

_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1  # for the threads that run already, too
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
# Of struct seccomp_data; the lower half of the first argument, as both processors have it.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
# Classic BPF: load a word; jump if equal, not less, or with a bit in common; return.
_LOAD, _EQUAL, _NOT_LESS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# From here on x86 counts the calls of another ABI, which are the same ones.
_X32 = 0x40000000


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """Numbers of system calls of a processor; ``starts`` begin another process or program."""

    architecture: int
    seccomp: int
    clone: int
    clone3: int
    starts: tuple[int, ...]


_CALLS = {
    # starts: fork, vfork, execve, execveat; the other one has no fork and vfork
    "x86_64": _Calls(
        architecture=0xC000003E, seccomp=317, clone=56, clone3=435, starts=(57, 58, 59, 322)
    ),
    "aarch64": _Calls(
        architecture=0xC00000B7, seccomp=277, clone=220, clone3=435, starts=(221, 281)
    ),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_copies() -> bool:
    """Allow threads, and no other process; needs no_new_privs. False: not possible here."""
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    steps = _filter(calls)
    program = _Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.syscall(
        ctypes.c_long(calls.seccomp),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_FLAG_TSYNC),
        ctypes.byref(program),
    )
    return bool(done == 0)


def _filter(calls: _Calls) -> bytes:
    """What decides on each call, in steps of 8 bytes; a jump says how many steps it passes."""
    refuse = _step(_RETURN, _ERRNO | errno.EPERM)
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, calls.architecture, yes=1),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
        _step(_NOT_LESS, _X32, no=1),
        refuse,
    ]
    for number in calls.starts:
        steps += [_step(_EQUAL, number, no=1), refuse]
    # Its flags lie in memory, where a filter cannot look. Without it libraries use clone.
    steps += [_step(_EQUAL, calls.clone3, no=1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    steps += [
        _step(_EQUAL, calls.clone, no=3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, yes=1),
        refuse,
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
