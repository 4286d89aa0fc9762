"""Records what a writer asks of the system: strace's lines become changes of files, in order.

Invariants: every call that can change a file below a scenario's root becomes a change, or stops
the recording with its name: nothing is guessed. Times are places in strace's output: a call that
another thread interrupted has a begin and an end of its own.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eventstore.audit.structure import child_environment
from eventstore.place.directory import LOG

CALLS = (
    "pwrite64 write writev pwritev pwritev2 fdatasync fsync sync syncfs sync_file_range msync "
    "ftruncate truncate fallocate rename renameat renameat2 unlink unlinkat rmdir open openat "
    "creat close mkdir mkdirat link linkat symlink symlinkat lseek mmap copy_file_range sendfile "
    "dup dup2 dup3 clone clone3"
)
"""What strace shows: all that can change a file, and what tells which file is meant."""

DATA, LOCK = "data.mdb", "lock.mdb"
"""LMDB writes into its lock file through memory; what is in it matters to no crash."""

WRITE_BYTES_MAX = 4 << 20
"""What strace shows of one call; one that writes more stops the recording."""

SECONDS_MAX = 120.0

LINE = re.compile(r"^(\d+) +(.*)$")
CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)$", re.DOTALL)
RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$", re.DOTALL)
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
BASES = re.compile(r'iov_base="((?:\\x[0-9a-f]{2})*)"')
UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes into a file; `synced` where the descriptor makes them durable by itself (O_DSYNC)."""

    node: int
    offset: int
    data: bytes
    synced: bool


@dataclass(frozen=True, slots=True)
class Resize:
    """A file is cut or extended to a size in bytes."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's bytes or a directory's names are durable at the end of this."""

    node: int


@dataclass(frozen=True, slots=True)
class Name:
    """A directory loses the name `old`, then gets `new` for a node; either may be missing."""

    node: int
    old: str | None
    new: str | None = None
    child: int = -1


@dataclass(frozen=True, slots=True)
class Said:
    """A line that the writer printed."""

    line: str


Change = Write | Resize | Sync | Name | Said


@dataclass(frozen=True, slots=True)
class Call:
    """One change and the times at which its call was made and came back."""

    begin: int
    end: int
    change: Change


@dataclass
class Recording:
    """What happened below one root: node 0 is the root, `directories` are nodes too."""

    calls: list[Call] = field(default_factory=list)
    directories: set[int] = field(default_factory=lambda: {0})
    locks: set[int] = field(default_factory=set)
    logs: set[int] = field(default_factory=set)


def record(program: Path, base: Path, names: Iterable[str]) -> dict[str, Recording]:
    """Run a program under strace; returns what it did below `base/NAME`, between "begin NAME"."""
    output = base / "strace.txt"
    command = ["strace", "-f", "-qq", "-xx", "-s", str(WRITE_BYTES_MAX), "-e", "signal=none"]
    command += ["--seccomp-bpf"]  # all other calls go on without a stop
    command += ["-e", "trace=" + ",".join(f"?{call}" for call in CALLS.split())]
    command += ["-o", str(output), sys.executable, str(program), str(base), *names]
    done = subprocess.run(
        command,
        env=child_environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr
    with output.open() as lines:
        return read(lines, base)


def read(lines: Iterable[str], base: Path) -> dict[str, Recording]:
    """Turn strace's lines into one recording per scenario."""
    recordings: dict[str, Recording] = {}
    reader: _Reader | None = None
    for begin, end, name, arguments, result in _joined(lines):
        said = _said(name, arguments)
        if said and said[0].startswith("begin "):
            scenario = said[0].split()[1]
            reader = _Reader(base / scenario)
            recordings[scenario] = reader.recording
        elif reader is not None:
            changes = [Said(line) for line in said] or reader.changes(name, arguments, result)
            reader.recording.calls += (Call(begin, end, change) for change in changes)
    for recording in recordings.values():
        recording.calls.sort(key=lambda call: call.begin)
    return recordings


def _said(name: str, arguments: str) -> list[str]:
    """Return the lines that this call prints."""
    if name != "write" or not arguments.startswith("1, "):
        return []
    return _bytes(TEXT.search(arguments)).decode().splitlines()


def _joined(lines: Iterable[str]) -> Iterator[tuple[int, int, str, str, int]]:
    """Iterate over (begin, end, name, arguments, result) of all calls of the writer's threads.

    Processes that it starts only look at files; theirs are other descriptors, so they are left
    out.
    """
    begun: dict[str, tuple[int, str]] = {}
    threads: set[str] = set()
    for time, line in enumerate(lines):
        match = LINE.match(line.rstrip("\n"))
        assert match, f"strace says {line[:200]!r}"
        thread, text = match.groups()
        threads = threads or {thread}
        begin = time
        if (resumed := RESUMED.match(text)) is not None:
            begin, head = begun.pop(thread)
            text = head + resumed[1]
        elif text.endswith(UNFINISHED):
            begun[thread] = time, text.removesuffix(UNFINISHED)
            continue
        call = CALL.match(text)
        if call is None or call[3] == "?":
            continue
        name, arguments, result = call[1], call[2], int(call[3], 0)
        if name.startswith("clone") and "CLONE_THREAD" in arguments and thread in threads:
            threads.add(str(result))
        elif thread in threads:
            yield begin, time, name, arguments, result


@dataclass
class _Handle:
    """An open descriptor: where the next write() goes, and whether it syncs."""

    node: int
    synced: bool
    offset: int = 0


class _Reader:
    """Follows names and descriptors, so that every call is of a node."""

    def __init__(self, root: Path) -> None:
        self.recording = Recording()
        self._root = str(root)
        self._tree: dict[int, dict[str, int]] = {0: {}}
        self._handles: dict[int, _Handle] = {}
        self._called: dict[int, str] = {}
        self._nodes = 0

    def changes(self, name: str, arguments: str, result: int) -> list[Change]:
        """Return what a call changed; a call that failed changed nothing."""
        if result < 0:
            return []
        known = getattr(self, f"_{name}", None)
        if known is not None:
            return list(known(arguments, result))
        first = arguments.split(",", 1)[0]
        touched = first.isdigit() and int(first) in self._handles
        touched = touched or any(self._below(path) for path in _paths(arguments))
        assert not touched, f"{name}({arguments[:200]}) is not modelled"
        return []

    # -- names -------------------------------------------------------------------------------

    def _below(self, path: str) -> list[str] | None:
        """Return the parts of a path below the root, None for one that is elsewhere."""
        if path != self._root and not path.startswith(self._root + "/"):
            return None
        return [part for part in path.removeprefix(self._root).split("/") if part]

    def _find(self, path: str, directory: int | None = None) -> tuple[int, str, int] | None:
        """Return (node of the directory, name, node or -1) of a path below the root."""
        parts = [path] if directory is not None else self._below(path)
        if parts is None:
            return None
        node = directory or 0
        for part in parts[:-1]:
            node = self._tree[node][part]
        name = parts[-1] if parts else ""
        return node, name, self._tree[node].get(name, -1) if name else 0

    def _place(self, arguments: str) -> tuple[int, str, int] | None:
        """Return the place that a call names, by a path or by a directory's descriptor and a name.

        Relative paths are never of the store, since the root is absolute.
        """
        path = _paths(arguments)[0]
        first = arguments.split(",", 1)[0]
        handle = self._handles.get(int(first)) if first.isdigit() else None
        return self._find(path, None if handle is None else handle.node)

    def _new(self, parent: int, name: str, *, directory: bool) -> Name:
        self._nodes += 1
        if directory:
            self.recording.directories.add(self._nodes)
            self._tree[self._nodes] = {}
            self._called[self._nodes] = name
        elif name == LOCK:
            self.recording.locks.add(self._nodes)
        self._tree[parent][name] = self._nodes
        self._note_log(parent, name)
        return Name(parent, None, name, self._nodes)

    def _note_log(self, parent: int, name: str) -> None:
        """Note a file that is, or becomes, that of a log."""
        if name == DATA and self._called.get(parent) == LOG:
            self.recording.logs.add(self._tree[parent][name])

    def _mkdir(self, arguments: str, _: int) -> Iterator[Change]:
        place = self._place(arguments)
        if place is not None:
            yield self._new(place[0], place[1], directory=True)

    def _unlink(self, arguments: str, _: int) -> Iterator[Change]:
        place = self._place(arguments)
        if place is not None:
            del self._tree[place[0]][place[1]]
            yield Name(place[0], place[1])

    _mkdirat, _unlinkat, _rmdir = _mkdir, _unlink, _unlink

    def _rename(self, arguments: str, _: int) -> Iterator[Change]:
        old, new = (self._find(path) for path in _paths(arguments))
        if old is None and new is None:
            return
        assert old is not None and new is not None, "a move elsewhere"
        self._tree[new[0]][new[1]] = self._tree[old[0]].pop(old[1])
        self._note_log(*new[:2])
        if old[0] == new[0]:
            yield Name(new[0], old[1], new[1], old[2])
        else:  # worse than any disk: each directory has its half of the move, or has it not
            yield Name(new[0], None, new[1], old[2])
            yield Name(old[0], old[1])

    _renameat, _renameat2 = _rename, _rename

    # -- descriptors -------------------------------------------------------------------------

    def _openat(self, arguments: str, result: int) -> Iterator[Change]:
        self._handles.pop(result, None)
        place = self._place(arguments)
        if place is None:
            return
        parent, name, node = place
        if node < 0:
            yield self._new(parent, name, directory=False)
            node = self._nodes
        elif "O_TRUNC" in arguments:
            yield Resize(node, 0)
        assert "O_APPEND" not in arguments, "appending is not modelled"
        self._handles[result] = _Handle(node, "O_DSYNC" in arguments or "O_SYNC" in arguments)

    def _close(self, arguments: str, _: int) -> Iterator[Change]:
        self._handles.pop(int(arguments), None)
        return iter(())

    def _lseek(self, arguments: str, result: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            handle.offset = result
        return iter(())

    def _mmap(self, arguments: str, _: int) -> Iterator[Change]:
        _, _, protection, flags, descriptor, _ = arguments.split(", ")
        handle = self._handles.get(int(descriptor))
        if handle is not None and "PROT_WRITE" in protection and "MAP_SHARED" in flags:
            assert handle.node in self.recording.locks, "a file is written through memory"
        return iter(())

    def _handle(self, arguments: str) -> _Handle | None:
        return self._handles.get(int(arguments.split(",", 1)[0]))

    # -- bytes -------------------------------------------------------------------------------

    def _write(self, arguments: str, result: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            data = b"".join(map(_bytes, TEXT.finditer(arguments)))[:result]
            assert len(data) == result
            yield Write(handle.node, handle.offset, data, handle.synced)
            handle.offset += result

    def _writev(self, arguments: str, result: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            yield _written(handle, handle.offset, BASES.finditer(arguments), result)
            handle.offset += result

    def _pwrite64(self, arguments: str, result: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            offset = int(arguments.rsplit(", ", 1)[1])
            yield _written(handle, offset, TEXT.finditer(arguments), result)

    def _pwritev(self, arguments: str, result: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            offset = int(arguments.rsplit(", ", 1)[1])
            yield _written(handle, offset, BASES.finditer(arguments), result)

    def _ftruncate(self, arguments: str, _: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            yield Resize(handle.node, int(arguments.rsplit(", ", 1)[1]))

    def _fsync(self, arguments: str, _: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        if handle is not None:
            yield Sync(handle.node)

    _fdatasync = _fsync

    def _fallocate(self, arguments: str, _: int) -> Iterator[Change]:
        handle = self._handle(arguments)
        assert handle is None or handle.node in self.recording.locks, "fallocate is not modelled"
        return iter(())


def _written(handle: _Handle, offset: int, texts: Iterable[re.Match[str]], result: int) -> Write:
    data = b"".join(map(_bytes, texts))[:result]
    assert len(data) == result, f"strace shows {len(data)} of {result} bytes"
    return Write(handle.node, offset, data, handle.synced)


def _bytes(text: re.Match[str] | None) -> bytes:
    assert text is not None
    return bytes.fromhex(text[1].replace("\\x", ""))


def _paths(arguments: str) -> list[str]:
    return [os.fsdecode(_bytes(text)) for text in TEXT.finditer(arguments)]
