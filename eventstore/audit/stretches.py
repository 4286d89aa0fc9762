"""Stretches of a log, walked on their own: what many processes share when they verify one log.

Invariants: a stretch is called sound only if the careful walk along the whole log would have found
nothing in it, given that its beginning fits; whatever else is the case, that walk takes it frame
by frame and says so in its own words. So what is found does not depend on who looked.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path

import msgspec

from ..errors import UNDECODABLE, EventStoreError
from ..events import AnyEvent
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from .crew import Crew, answer_all, crew, workers_for
from .erasures import REASONS, Erasures
from .frames import Frames
from .relations import Merges, Place, Places
from .report import Notes
from .rows import Rows
from .tree import Frontier
from .usual import UsualFrames
from .walk import Stretch, Tile, Walk

STRETCH_BITS = 13
"""A stretch is of 2**13 positions: 60 ms of work, beside which handing it out costs nothing."""

EVENTS_MIN = 100_000
"""A smaller log is walked in a second, by one process."""

FRAME_EVENTS_MAX = (1 << 16) - 1
"""Events that the count in a frame's head can say."""


Shared = AbstractContextManager[Crew["Task", Stretch]]


class Task(msgspec.Struct, frozen=True, array_like=True):
    """To walk along the frames that end at `start <= position < stop`, in a log of `size` events.

    `start` is a multiple of 2**STRETCH_BITS, and `stop` no more than that further.
    """

    start: int
    stop: int
    size: int
    deep: bool


def tasks_of(begin: int, size: int, frames: int, *, deep: bool) -> list[Task]:
    """Return the stretches from a position on; none if so few frames can't hold so many events."""
    if size > frames * FRAME_EVENTS_MAX:
        return []
    step = 1 << STRETCH_BITS
    return [
        Task(start, min(start + step, size), size, deep)
        for start in range(begin & -step, size, step)
    ]


class _Claims(Places):
    """The places of the streams that come up, each as it is said to be where the stretch begins.

    It is said by the stream's first frame, or by the index if it is only spoken of before that.
    """

    def __init__(self, indexed: Callable[[int], Place]) -> None:
        super().__init__()
        self._indexed = indexed
        self._claimed: dict[int, Place] = {}

    def at(self, ref: int) -> Place:
        """Return how far a stream has come."""
        if ref not in self._claimed:
            self._claim(ref, self._indexed(ref))
        return super().at(ref)

    def fits(self, ref: int, place: Place) -> bool:
        """Return True if a stream has come just so far, as one may that nothing is known of."""
        if ref not in self._claimed:
            self._claim(ref, place)
        return super().at(ref) == place

    def _claim(self, ref: int, place: Place) -> None:
        self._claimed[ref] = place
        self.move(ref, *place)

    def moved(self) -> list[tuple[int, Place, Place]]:
        """Return reference, place at the beginning and place now of each."""
        return [(ref, begun, self.at(ref)) for ref, begun in self._claimed.items()]


class _Later(Erasures, Merges):
    """Keeps in mind which frames hold what only the order of the whole log can judge."""

    def __init__(self, notes: Notes) -> None:
        Erasures.__init__(self, notes)
        Merges.__init__(self, notes)
        self.frames: dict[int, None] = {}

    def left(self, frame: Frame, index: int) -> None:
        """Take an event whose payload is gone."""
        self.take(frame, index, None)

    def said(self, frame: Frame, code: int, event: AnyEvent | None) -> None:
        """Take a fact that may say why something is gone."""
        if code in REASONS:
            self.take(frame, 0, event)

    def take(self, frame: Frame, _: int, __: AnyEvent | None) -> None:
        """Take half of a merge."""
        self.frames[frame.last_position] = None


class _LooseWalk(Walk):
    """A walk that begins anywhere and keeps its leaves, which no tree stands behind yet."""

    def grow(self) -> list[Tile]:
        """Make no tree."""
        return []


def walked(log: LmdbLog, task: Task) -> Stretch | None:
    """Return what is known of a stretch, None unless all of it is sound; nothing is raised."""
    notes = Notes()
    try:
        found = _walked(log, task, notes)
    except (EventStoreError, *UNDECODABLE):
        return None
    return None if notes.findings else found


def _walked(log: LmdbLog, task: Task, notes: Notes) -> Stretch | None:
    rows = Rows(log)
    frames = Frames(rows, task.size, notes)
    first = frames.first(task.start)
    if first is None or not first.position <= task.start <= first.last_position < task.stop:
        return None  # it has a gap in front, or no frame ends in it
    begin, later = first.position, _Later(notes)
    places = _Claims(lambda ref: frames.place(ref, begin))
    walk = _LooseWalk(
        log,
        task.size,
        rows.named,
        notes,
        deep=task.deep,
        places=places,
        erasures=later,
        merges=later,
    )
    walk.start = walk.next = begin
    frames.begin(begin)
    usual = UsualFrames(walk, log.codec, deep=task.deep)
    for _ in frames.follow(walk, usual, task.stop):
        if notes.findings:
            return None
    loose, tree = task.start - begin, Frontier()
    tiles = tree.extend(walk.leaves[loose:])
    frames.check_tiles(
        [(level, index + (task.start >> level), node) for level, index, node in tiles]
    )
    levels = [level for level in range(STRETCH_BITS, -1, -1) if tree.size >> level & 1]
    return Stretch(
        begin,
        walk.next,
        first.recorded_at,
        walk.recorded_at,
        places.moved(),
        walk.leaves[:loose],
        list(zip(levels, tree.nodes, strict=True)),
        list(later.frames),
        walk.keys,
        dict(notes.checked),
    )


def workers_of(log: LmdbLog, events: int, wanted: int | None) -> int:
    """Return how many processes share so many events: 1 where keys would have to go with them."""
    count = workers_for(events, EVENTS_MIN, wanted)
    return 1 if log.codec.seal is not None else count


def shared(log: LmdbLog, tasks: Sequence[Task], workers: int) -> Shared:
    """Return the crew that walks along these stretches, while its block lasts."""
    command = __name__, str(log.env.path)
    return crew(command, tasks, partial(walked, log), Stretch, workers)


def _main(path: Path) -> None:
    with closing(LmdbLog(path, read_only=True)) as log:
        answer_all(Task, partial(walked, log))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
