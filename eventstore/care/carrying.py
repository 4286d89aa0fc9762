"""Frames from one log into another: the same facts, byte for byte, at places of their own.

Invariants: salts, payloads, seals, times, names and keys come over as they are, no key is needed;
what was erased stays so; a log that is carried from its beginning has the same tree; one that
stops earlier, the tree of then.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from ..audit.entry import entry_lead
from ..errors import EventStoreError
from ..events import Span
from ..limits import MIB
from ..log.base import ANY, FORGOTTEN, Append
from ..log.draft import Draft, laid_out
from ..log.format import CREATING, DICTIONARIES, KEY_ROW, MESSAGE, REF, SHREDDED, STARTER
from ..log.frame import Frame
from ..log.lmdb import LmdbLog, create_log
from ..log.rows import checked_value
from ..log.shredding import hidden_lines

CARRIED_EVENTS = 5_000
"""Events that are planned and committed together."""

CARRIED_BYTES = 4 * MIB
"""Or so many stored bytes of them."""


def draft_of(frame: Frame, low: int = 0, high: int | None = None) -> Draft:
    """Return the events `low <= index < high` of a frame as they would be appended anew.

    Raises Corruption where one of them is damaged.
    """
    indexes = range(low, frame.count if high is None else high)
    events = [frame.stored(index) for index in indexes]
    heads, bodies = laid_out(events)
    times = [frame.occurred_at(index) or 0 for index in indexes]
    leads = [
        entry_lead(row[5] & ~SHREDDED, row[3], row[4], when)
        for (row, _), when in zip(events, times, strict=True)
    ]
    return Draft(
        frame.session,
        len(indexes),
        sum(row[3] == MESSAGE for row, _ in events),
        events[0][0][3] in CREATING,
        leads,
        heads,
        bodies,
        [frame.digests(index) for index in indexes],
    )


def append_of(
    frame: Frame, content: bytes | None, draft: Draft | None = None, *, continues: bool = False
) -> Append:
    """Return the append that puts a frame, or a draft in its place, into another log.

    `content` is what the index of keys has for its key; without it the key answers to anything.
    `continues` says that it goes on with what was put there last.
    """
    return Append(
        (draft_of(frame) if draft is None else draft,),
        (ANY,),
        frame.actor,
        frame.correlation_id,
        frame.causation_id,
        frame.key,
        FORGOTTEN if content is None else content,
        content_is_kept=True,
        recorded_at=frame.recorded_at,
        continues=continues,
    )


class Carrier:
    """Takes appends in order and commits many at a time; finish() is the end of them.

    A frame goes on with an append only where the one that it went on with came right before it.
    """

    def __init__(self, log: LmdbLog) -> None:
        self._log = log
        self._waiting: list[Append] = []
        self._events = self._bytes = 0
        self._hidden = dict[str, list[Span]]()
        self._last: Frame | None = None
        self.carried = 0

    @property
    def taken(self) -> int:
        """How many events have been taken, committed or not."""
        return self.carried + self._events

    def take(self, frame: Frame, content: bytes | None) -> None:
        """Carry one frame as it is."""
        continues = self._last is not None and frame.goes_on(self._last)
        self.take_append(append_of(frame, content, continues=continues))
        self._last = frame
        self.hide(frame)

    def take_append(self, append: Append) -> None:
        """Carry what has been made of a frame."""
        self._last = None
        self._waiting.append(append)
        self._events += append.drafts[0].count
        self._bytes += len(append.drafts[0].bodies)
        if self._events >= CARRIED_EVENTS or self._bytes >= CARRIED_BYTES:
            self.commit()

    def hide(self, frame: Frame, indexes: Iterable[int] | None = None) -> None:
        """Remember what of a frame, or of some of its events, is gone, and no list may show."""
        asked = range(frame.count) if indexes is None else indexes
        gone = [index for index in asked if frame.erased(index)]
        if gone:  # of which none may be a line
            self._hidden.setdefault(frame.session, []).extend(hidden_lines(frame, gone))

    def commit(self) -> None:
        """Write what has been taken."""
        for outcome in self._log.commit(self._waiting, 0) if self._waiting else ():
            if isinstance(outcome, EventStoreError):
                raise outcome
        self.carried += self._events
        self._waiting, self._events, self._bytes = [], 0, 0

    def finish(self) -> None:
        """Write what is left, and what was erased."""
        self.commit()
        if not self._hidden:
            return
        log = self._log
        refs = {session: tail.ref for session in self._hidden if (tail := log.tail(session))}
        with log.env.translating, log.env.write() as txn:
            for session, ref in refs.items():
                if self._hidden[session]:
                    log.gone.hide(txn, session, ref, self._hidden[session])
            log.gone.raise_count(txn)


# -- what there is to carry ------------------------------------------------------------------


def make_log(path: Path, store: str, dictionaries: Mapping[int, bytes], *, encrypted: bool) -> None:
    """Make an empty log in an empty directory that has these dictionaries under their numbers."""
    create_log(path, store, dictionaries.get(STARTER), encrypted=encrypted)
    with closing(LmdbLog(path)) as log:
        for number, content in sorted(dictionaries.items()):
            log.add_dictionary(content, number)


def dictionaries_of(log: LmdbLog) -> dict[int, bytes]:
    """Return the compression dictionaries of a log by their numbers."""
    with log.env.begin() as txn:
        rows = [(bytes(key), bytes(row)) for key, row in txn.cursor(log.env.table(DICTIONARIES))]
    return {
        (number := REF.unpack(key)[0]): checked_value(row, f"dictionary {number}", key)
        for key, row in rows
    }


def content_of(log: LmdbLog, frame: Frame) -> bytes | None:
    """Return what the index of keys has for a frame's key, None for a frame without one."""
    if not frame.kept_key:
        return None
    with log.env.begin() as txn:
        row = log.key_row_in(txn, frame.kept_key)
    return None if row is None else bytes(KEY_ROW.unpack(row)[1])


def while_kept(frames: Iterable[Frame], keeps: Callable[[Frame], bool]) -> Iterator[Frame]:
    """Iterate over frames up to the first one that is not kept, never stopping inside an append."""
    for frame in frames:
        if not (frame.continues or keeps(frame)):
            return
        yield frame
