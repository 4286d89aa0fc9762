"""Verify: walk everything a store holds and name whatever is not as it was written.

Invariants: it goes on after damage, up to FINDINGS_MAX; memory is bounded by the number of
sessions, not of events; nothing is written. Files whose very structure is damaged are only read
in a child process, so that whoever asks stays alive.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, TypedDict, Unpack

import msgspec

from ..engine.checks import check_limit
from ..errors import Corruption, EventStoreError, FormatTooNew, StoreUnavailable
from ..files import checked_path
from ..keyring import Keyring
from ..log.base import Log
from ..log.format import FRAMES
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import LOG, check_store
from ..store import EventStore
from .frames import Frames
from .leaves import LogLeaves
from .outside import Outside, check_outside
from .pages import FILE
from .proof import Prover
from .report import Finding, Notes, Report
from .rows import Rows
from .states import States
from .stretches import shared, tasks_of, workers_of
from .structure import check_structure, child_environment, ending
from .tables import Tables
from .usual import UsualFrames
from .walk import Walk

Taken = list[tuple[int, Frame | None]]
"""A page of frames with their last positions, None for one that can't be read."""

Progress = Callable[[int, int], None]
"""Called with the events done and the events in all."""

Views = Callable[[EventStore], Iterable[Finding]]
"""Checks views against full replays: given by the doors, since facts know nothing of views."""

SECONDS_MAX = 24 * 3_600.0
"""How long a child process may read a store whose structure is damaged."""


class Verified(msgspec.Struct, frozen=True):
    """How far a log was found sound: its size and root (hex) then."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    root: str
    deep: bool = False


class Manner(TypedDict, total=False):
    """How a store is verified, whoever opens it: what verify() takes, under the same names."""

    deep: bool
    progress: Progress | None
    outside: Outside | None
    since: Verified | None
    workers: int | None


def verify(
    store: EventStore,
    *,
    deep: bool = False,
    progress: Progress | None = None,
    views: Views | None = None,
    outside: Outside | None = None,
    since: Verified | None = None,
    workers: int | None = None,
) -> Report:
    """Check an open store: frames, payloads, versions, indexes, names, times and the whole tree.

    `deep` also decodes every event, holds the copies in its head to it, and compares snapshots,
    states and `views` with full folds. An encrypted store without its keyring is checked for all
    that needs no payload: its tree, its sealed bytes and whose key sealed them. `outside` is what
    is kept of the store elsewhere: signed heads and tiles that it must lead on from; `since` how
    far it was found sound before: only what follows is read, if the tree up to there is still the
    same. What is appended meanwhile is left out. `workers` processes share the work, by default as
    many as there are cores where that pays; what is found does not depend on them. Raises
    InvalidEvent for what can't be a number of workers.
    """
    check_limit(workers, "workers")  # before the walk, which takes any error for a finding
    store.flush()
    notes, log = Notes(), store.log
    states = States(store) if deep and not log.codec.locked else None
    if isinstance(log, LmdbLog):
        size, root = _verify_tables(
            log, store.id, notes, progress, since, workers, states, deep=deep
        )
    else:
        size, root = _verify_frames(log, notes, progress, deep=deep)
    if states is not None:
        states.check(size, notes)
        notes.take(views(store) if views else ())
    if outside is not None:
        notes.checked["signed heads"] = len(outside.notes)
        notes.take(check_outside(store, outside))
    return notes.report(size, root.hex())


def _verify_tables(
    log: LmdbLog,
    store: str,
    notes: Notes,
    progress: Progress | None,
    since: Verified | None,
    workers: int | None,
    states: States | None,
    *,
    deep: bool,
) -> tuple[int, bytes]:
    rows = Rows(log)
    frames, tables = Frames(rows, rows.size, notes), Tables(rows, store, notes)
    walk = Walk(log, rows.size, rows.named, notes, deep=deep)
    try:
        if since is not None:
            _resume(log, frames, walk, since, notes)
        with closing(_followed(log, rows, frames, walk, workers, states, deep=deep)) as pages:
            for _ in pages:
                _tell(progress, walk)
    except EventStoreError as error:
        notes.add_error(error, walk.next)
    frames.check_tiles(walk.finish())
    tables.finish(walk, frames.misses)
    _count(walk, notes)
    frontier = tables.edge[0] if tables.edge else walk.frontier
    return rows.size, frontier.root()


def _followed(
    log: LmdbLog,
    rows: Rows,
    frames: Frames,
    walk: Walk,
    workers: int | None,
    states: States | None,
    *,
    deep: bool,
) -> Generator[None]:
    """Take the walk to the end of the log, over all that somebody else found sound.

    Pages end where stretches do, however many share them: so all is told in the same order.
    States are looked at while the others walk, else one core would do so at the end.
    """
    usual = UsualFrames(walk, log.codec, deep=deep)
    tasks = tasks_of(walk.next, rows.size, rows.entries[FRAMES], deep=deep)
    count = workers_of(log, rows.size - walk.next, workers)
    with shared(log, tasks, count) as others:
        if count > 1 and states is not None:
            states.look_ahead(rows.size)
        for index, task in enumerate(tasks):
            stretch = others.found(index)
            if stretch is None or not frames.leap(walk, stretch):
                yield from frames.follow(walk, usual, task.stop)
            else:
                yield
    yield from frames.follow(walk, usual)


def _resume(log: LmdbLog, frames: Frames, walk: Walk, since: Verified, notes: Notes) -> None:
    """Let the walk begin where the last one ended, if the tree up to there is the same."""
    same = since.size <= frames.size
    if same:
        frontier = Prover(LogLeaves(log)).frontier(since.size)
        same = frontier.root().hex() == since.root
    if not same:
        what = f"the first {since.size} events are not those that were found sound before"
        notes.add(-1, f"{what}: the log was set back or rewritten; verify all of it")
    elif since.size:
        at = log.read_all(since.size - 1, 1)[0].recorded_at
        walk.resume(frontier, frames.places(since.size), at)
        frames.begin(since.size)


def _verify_frames(
    log: Log, notes: Notes, progress: Progress | None, *, deep: bool
) -> tuple[int, bytes]:
    """Check a log that has no tables: all that follows from its frames."""
    head = log.head()

    def named(session: str) -> int | None:
        tail = log.tail(session)
        return None if tail is None else tail.ref

    walk = Walk(log, head.size, named, notes, deep=deep)
    for page in _pages(log, head.size, notes):
        for each in page:
            walk.take(*each)
        walk.grow()
        _tell(progress, walk)
    walk.finish()
    if walk.whole and walk.frontier.root() != head.root:
        notes.add(-1, "the tree head is not what the frames hash to")
    if walk.whole and walk.recorded_at != head.recorded_at:
        notes.add(-1, f"the tree head's time is {head.recorded_at} instead of {walk.recorded_at}")
    _count(walk, notes)
    return head.size, head.root


def _pages(log: Log, size: int, notes: Notes) -> Iterator[Taken]:
    """Iterate over all frames; where a page can't be read, frame by frame."""
    position = 0
    while position < size:
        page: Taken = []
        try:
            page = [(frame.last_position, frame) for frame in log.read_all(position)]
        except Corruption:
            try:
                page = [(each.last_position, each) for each in log.read_all(position, 1)]
            except Corruption as error:
                notes.add_error(error, position)
                page = [(max(error.position, position), None)]
        if not page:
            return
        notes.checked["frames"] += len(page)
        yield [each for each in page if each[0] < size]
        position = page[-1][0] + 1


def _tell(progress: Progress | None, walk: Walk) -> None:
    if progress is not None:
        progress(walk.next, walk.size)


def _count(walk: Walk, notes: Notes) -> None:
    notes.checked["events"] = walk.next - walk.start


# -- a directory, whatever state it is in ------------------------------------------------


def verify_directory(
    path: str | os.PathLike[str], *, keyring: Keyring | None = None, **manner: Unpack[Manner]
) -> Report:
    """Check the store in a directory: the structure of its files first, then all they hold.

    Raises StoreUnavailable where there is no store to check, it may not be read, or the keyring
    is not its own; a store whose structure is damaged is checked without one.
    """
    place = checked_path(path, "path")
    check_store(place)
    file = place / LOG / FILE
    if not file.exists():
        return Report(0, "", [Finding(-1, f"{LOG}/{FILE} is missing")])
    _check_readable(file)
    with presence.reading(place):  # else a compaction might swap the files below the walk
        damage = check_structure(place)
    if not damage:
        return _verify_opened(place, keyring, manner)
    progress, deep = manner.get("progress"), manner.get("deep", False)
    return _joined(damage, _verify_apart(place, progress, deep=deep))


def _check_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise StoreUnavailable(f"{file} can't be read: {error.strerror}") from None


def _verify_opened(path: Path, keyring: Keyring | None, manner: Manner) -> Report:
    try:
        store = EventStore.open(path, read_only=True, keyring=keyring)
    except (Corruption, FormatTooNew) as error:
        notes = Notes()
        notes.add_error(error)
        return notes.report()
    with store:
        return verify(store, **manner)


def _verify_apart(path: Path, progress: Progress | None, *, deep: bool) -> Report:
    """Read a store whose structure is damaged in a child process, which may die of it."""
    command = [sys.executable, "-m", __name__, str(path), *(["--deep"] if deep else [])]
    with subprocess.Popen(  # noqa: S603 - this interpreter, this module
        command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        watch = threading.Timer(SECONDS_MAX, child.kill)
        watch.daemon = True
        watch.start()
        report = None
        assert child.stdout is not None
        for line in child.stdout:
            said = msgspec.json.decode(line, type=Report | tuple[int, int])
            if isinstance(said, Report):
                report = said
            elif progress is not None:
                progress(*said)
        watch.cancel()
    if report is not None:
        return report
    what = f"reading the log ended with {ending(child.returncode)}: its facts are not checked"
    return Report(0, "", [Finding(-1, what)])


def _joined(damage: list[Finding], report: Report) -> Report:
    return msgspec.structs.replace(report, findings=damage + report.findings)


def _main(path: Path, *, deep: bool) -> None:
    """Verify in the child process and tell the parent by lines of JSON."""

    def say(said: Report | tuple[int, int]) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
        sys.stdout.buffer.flush()

    manner = Manner(deep=deep, progress=lambda done, size: say((done, size)), workers=1)
    try:
        say(_verify_opened(path, None, manner))
    except EventStoreError as error:
        say(Report(0, "", [Finding(-1, str(error))]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), deep="--deep" in sys.argv[2:])
