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
from eventstore.care.backup import backup
from eventstore.care.compacting import compact
from projections import Views

PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
SECONDS_MAX = 60.0
ATTEMPTS = 2
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


class Sufferer:
    """A forked child that does its work under a fault, from the time this is made.

    Calls that are not about the files below `root` go well, if there are any.
    """

    def __init__(self, work: Work, root: Path, fault: Fault) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child = os.fork()
        if self._child == 0:
            self._ours.close()
            act(work, root, theirs)
        theirs.close()
        self._output = root.with_suffix(".strace")
        self._strace = self._watched(fault, sorted(root.rglob("*")))
        self._ours.settimeout(SECONDS_MAX)
        self._ours.send(b"!")

    def outcome(self) -> Outcome:
        """Wait until the work is done; return what the child told."""
        told: list[str] = []
        while (word := self._ours.recv(65_536).decode()) not in ("done", ""):
            told.append(word)
        self._strace.terminate()
        self._strace.communicate()
        self._ours.close()
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        told += [] if word else ["died"]
        return Outcome(told, "(INJECTED)" in self._output.read_text())

    def _watched(self, fault: Fault, paths: list[Path]) -> subprocess.Popen[str]:
        command = ["strace", "-f", "-p", str(self._child), "-o", str(self._output)]
        command += ["-e", f"trace={fault.call}", "-e", f"inject={fault}"]
        command += [f"--trace-path={path}" for path in paths]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = strace.stderr.readline()
        assert "attached" in said, said
        return strace


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


def care_for(root: Path, tell: Tell) -> None:
    """Back the store up, compact it and use it again; each twice at most if it is refused."""

    def save() -> None:
        with EventStore.open(root / "h") as store:
            backup(store, root / "copy", incremental=True)

    def use() -> None:
        with EventStore.open(root / "h") as store:
            Views(store).statistics()
            store.append("a", line(0), key="k0")

    for act in (save, lambda: compact(root / "h"), use):
        for _ in range(ATTEMPTS):
            try:
                act()
            except EventStoreError as error:
                tell("refused", type(error).__name__, error)
            else:
                break


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
