"""Has one call of a process fail: a forked child works on a store while strace injects an error.

Invariants: the child makes nothing but the store's calls once strace has it, since all else was
done before, and it reports by a socket, whose calls are never failed.
"""

import ctypes
import os
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scenarios import line

from eventstore import EventStore, EventStoreError, StoreUnavailable

PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
SECONDS_MAX = 60.0
ATTEMPTS = 3
APPENDS = 3

Tell = Callable[..., None]
Work = Callable[[Path, Tell], None]


class Fault(NamedTuple):
    """What fails: the `first` call of a kind, or all from there on with `lasting`, and how."""

    call: str
    how: str
    first: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.call}:{self.how}:when={self.first}{'+' * self.lasting}"


class Outcome(NamedTuple):
    """What the child told, and whether there was such a call at all."""

    told: list[str]
    hit: bool


def suffer(work: Work, root: Path, fault: Fault) -> Outcome:
    """Have a forked child do its work under a fault; return what it told."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        act(work, root, theirs)
    theirs.close()
    try:
        paths = sorted(root.rglob("*"))
        return Outcome(*watched(child, ours, root.with_suffix(".strace"), fault, paths))
    finally:
        ours.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def act(work: Work, root: Path, theirs: socket.socket) -> None:
    """Do the work in the child, once it is watched; never returns."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)

    def tell(*words: object) -> None:
        theirs.send(" ".join(map(str, words)).encode())

    try:
        theirs.recv(1)
        work(root, tell)
    except BaseException:  # noqa: BLE001 - whatever it is, the test must hear of it
        tell("foreign", traceback.format_exc())
    finally:
        tell("done")
        signal.pause()


def watched(
    child: int, ours: socket.socket, output: Path, fault: Fault, paths: list[Path]
) -> tuple[list[str], bool]:
    """Let the child go once strace has it; return what it told and if a call was failed.

    Where there are `paths`, calls that are not about them go well.
    """
    command = ["strace", "-f", "-p", str(child), "-o", str(output), "-e", f"trace={fault.call}"]
    command += ["-e", f"inject={fault}", *(f"--trace-path={path}" for path in paths)]
    told: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        said = strace.stderr.readline()
        assert "attached" in said, said
        ours.settimeout(SECONDS_MAX)
        ours.send(b"!")
        while (word := ours.recv(65_536).decode()) not in ("done", ""):
            told.append(word)
        strace.terminate()
        strace.stderr.read()
    return [*told, *([] if word else ["died"])], "(INJECTED)" in output.read_text()


# -- the work --------------------------------------------------------------------------------


def append_some(root: Path, tell: Tell) -> None:
    """Open the store, made if it is missing, and append; retry with the same key if refused."""
    store = None
    for number in range(APPENDS):
        for _ in range(ATTEMPTS):
            try:
                store = store or EventStore.open(root / "h", actor="user:0")
                if not store.exists("a"):
                    store.create("a", key="create")
                receipt = store.append("a", line(number), key=f"k{number}")
            except StoreUnavailable as error:
                tell("refused", error)
                look(store, tell)
                store = closed(store, tell)
            else:
                tell("size", receipt.tree_size)
                break
        else:
            tell("gave up", number)
    closed(store, tell)


def look(store: EventStore | None, tell: Tell) -> None:
    """Read after an append was refused: what is there, or a clear error."""
    if store is not None:
        try:
            tell("readable", sum(1 for _ in store.all()))
        except EventStoreError as error:
            tell("unreadable", type(error).__name__, error)


def closed(store: EventStore | None, tell: Tell) -> None:
    """Close a store; one that can't be synced says so by an error of the tree."""
    try:
        if store is not None:
            store.close()
    except StoreUnavailable as error:
        tell("closed", error)
