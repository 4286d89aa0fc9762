"""Reading the streams of a log in LMDB: tails, pages of frames, and the place of a message.

Invariants: what an index row says is checked against the frame it leads to, and a stream is read
without a gap, so that a damaged index raises Corruption instead of hiding facts or giving another
session's. Small frames are remembered as of one count of erasures.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import cast

import lmdb

from ..errors import UNDECODABLE, Corruption
from ..limits import PAGE_BYTES_MAX
from ..messages import Message
from .base import Row, Tail, page, version_of
from .format import POSITION, REF, STREAM_ROW
from .frame import Frame
from .lone import lone_messages, read_ahead
from .newest import Seen
from .opened import OpenLog
from .rows import Bytes

FRAMES_CACHED_MAX, FRAME_CACHED_BYTES_MAX = 1_024, 4_096
"""Frames that a log remembers, and how large one may be: 4 MiB in all."""

PAGE_CACHED_FRAMES_MAX = 64
"""Larger pages of a stream are read past that memory: to fill it costs as much as the reading."""


class Streams(OpenLog):
    """A log whose streams can be read."""

    def erasures(self) -> int:
        """Return how often payloads were destroyed; costs no transaction where we wrote last.

        What was destroyed since a copy was made that can't be written counts once.
        """
        seal = self.codec.seal
        return self._erasures() + (seal is not None and bool(seal.gone))

    def _erasures(self) -> int:
        self._check_open()
        newest, seen = self.env.newest_commit(), self._seen
        known = seen.erasures if newest == seen.commit else self.newest.erasures(newest)
        if known is not None:
            return known
        with self.env.begin() as txn:
            self._look(txn)
            return self.gone.count(txn)

    def _look(self, txn: lmdb.Transaction) -> dict[int, Frame]:
        """Return the frames remembered that are as this reader's transaction sees them."""
        seen, commit = self._seen, txn.id()
        if commit == seen.commit:
            return seen.frames
        erasures = self.gone.count(txn)
        if erasures < seen.erasures:  # a reader that began before an erasure
            return {}
        frames = seen.frames if erasures == seen.erasures else {}
        self._seen = Seen(max(commit, seen.commit), erasures, frames)
        return frames

    # -- the newest place ----------------------------------------------------------------

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream."""
        self._check_open()
        # No transaction is needed where nobody wrote since we did. A commit of ours that LMDB has
        # and _settle() has not is read like another's: whoever read it already must find it here.
        known = self.newest.tail(self.env.newest_commit(), session)
        if known is not None:
            return known
        with self.env.begin() as txn:
            found = self.tail_in(txn, session, self._look(txn))
            if found is not None:
                self.newest.learn(txn.id(), session, found)
            return found

    def settled_tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream that callers have been told of, or a newer one."""
        self._check_open()
        known = self.newest.settled_tail(self.env.newest_commit(), session)
        return known or self.tail(session)

    def tail_in(self, txn: lmdb.Transaction, session: str, recent: dict[int, Frame]) -> Tail | None:
        """Return the newest place in a stream as this transaction sees it."""
        ref = self._session_ref(txn, session)
        if ref is None:
            return None
        row = self._newest(txn, session, ref)
        frame = self._indexed(txn, txn.cursor(self._frames), session, row, recent)
        return Tail(REF.unpack(ref)[0], row.version, frame.next_number(), row.position)

    def _newest(self, txn: lmdb.Transaction, session: str, ref: Bytes) -> Row:
        """Return the last row of a stream's index."""
        cursor = txn.cursor(self._streams)
        if not (cursor.set_key(ref) and cursor.last_dup()):
            raise Corruption(-1, f"session {session!r} has no rows in the index")
        return Row(*STREAM_ROW.unpack(cursor.value()))

    # -- pages ---------------------------------------------------------------------------

    def read_stream(
        self, session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of a stream's frames, from `version` on or back."""
        self._check_open()
        with self.env.begin() as txn:
            seen = self._look(txn)
            recent = seen if frames_max is not None and frames_max <= PAGE_CACHED_FRAMES_MAX else {}
            return page(self._stream(txn, session, version, recent, reverse=reverse), frames_max)

    def _stream(
        self,
        txn: lmdb.Transaction,
        session: str,
        version: int,
        recent: dict[int, Frame],
        *,
        reverse: bool = False,
    ) -> Iterator[Frame]:
        """Iterate over a stream's frames without a gap, so that a damaged index hides nothing."""
        frames = txn.cursor(self._frames)
        for row in map(STREAM_ROW.unpack, self._index(txn, session, version, reverse=reverse)):
            frame = self._indexed(txn, frames, session, row, recent)
            _check_holds(frame, version)
            yield frame
            version = frame.version - 1 if reverse else frame.last_version + 1
        self._check_whole(txn, session, version)

    def read_messages(
        self, session: str, version: int, frames_max: int
    ) -> list[list[Message] | Frame]:
        """Return a page of a stream from `version` on, runs of lone messages decoded."""
        if self.codec.seal:  # there a frame for each is the only way
            return [*self.read_stream(session, version, frames_max=frames_max)]
        self._check_open()
        with self.env.begin() as txn:
            self._look(txn)
            try:
                return self._messages(txn, session, version, frames_max)
            except UNDECODABLE:  # whoever looks at its frame gets to know more
                return [*page(self._stream(txn, session, version, {}), frames_max)]

    def _messages(
        self, txn: lmdb.Transaction, session: str, version: int, frames_max: int
    ) -> list[list[Message] | Frame]:
        taken: list[list[Message] | Frame] = []
        frames, names, size, left = txn.cursor(self._frames), self._name_of, 0, frames_max
        found = cast("Callable[[bytes, bytes], bytes]", frames.get)
        rows = read_ahead(islice(self._index(txn, session, version), frames_max), found)
        while size < PAGE_BYTES_MAX:
            run, row = lone_messages(rows, session, version, names, self.codec)
            version, left = version + len(run), left - len(run)
            if run:
                taken.append(run)
            if row is None:
                if left:
                    self._check_whole(txn, session, version)
                break
            frame = self._indexed(txn, frames, session, row, {})
            _check_holds(frame, version)
            taken.append(frame)
            version, size, left = frame.last_version + 1, size + len(frame.raw), left - 1
        return taken

    def _check_whole(self, txn: lmdb.Transaction, session: str, version: int) -> None:
        """Raise Corruption if a stream has a version behind which its index gave no more."""
        ref = self._session_ref(txn, session)
        if ref is not None and 0 <= version <= self._newest(txn, session, ref).version:
            raise Corruption(-1, f"version {version} of session {session!r} is missing")

    def _index(
        self, txn: lmdb.Transaction, session: str, version: int, *, reverse: bool = False
    ) -> Iterator[bytes]:
        """Iterate over the rows of a stream's index from the frame that holds `version` on."""
        ref = self._session_ref(txn, session)
        cursor = txn.cursor(self._streams)
        if ref is None or not cursor.set_range_dup(ref, STREAM_ROW.pack(version, 0)):
            return iter(())
        rows = cursor.iterprev_dup() if reverse else cursor.iternext_dup()
        return cast("Iterator[bytes]", rows)

    def _indexed(
        self,
        txn: lmdb.Transaction,
        frames: lmdb.Cursor,
        session: str,
        row: tuple[int, ...],
        recent: dict[int, Frame],
    ) -> Frame:
        """Return the frame that an index row leads to, and check that it is the right one.

        Small frames are remembered: a state is found by walking back and folded forward, and
        the second look costs a quarter of the first.
        """
        version, position = row
        frame = recent.get(position)
        if frame is None:
            raw = cast("bytes | None", frames.get(POSITION.pack(position)))
            if raw is None:
                raise Corruption(position, f"the frame of version {version} is missing")
            frame = self._adopted(txn, Frame(raw, position, self.codec))
            if len(recent) >= FRAMES_CACHED_MAX:
                recent.clear()
            if len(raw) <= FRAME_CACHED_BYTES_MAX:
                recent[position] = frame
        if frame.session != session or frame.last_version != version:
            raise Corruption(position, f"the index of session {session!r} is wrong here")
        return frame

    def locate(self, session: str, number: int) -> int:
        """Return the version of a message of the stream: bisection over its index."""
        self._check_open()
        with self.env.begin() as txn:
            recent = self._look(txn)
            tail = self.tail_in(txn, session, recent)
            if tail is None or number >= tail.messages:
                raise Corruption(-1, f"session {session!r} has no message {number}")
            # Mostly all events that are no messages are at one end: try from both ends first.
            low, high = number + 1, tail.version - (tail.messages - 1 - number)
            probe = low
            while low <= high:
                frame = next(self._stream(txn, session, probe, recent))
                if frame.number <= number < frame.next_number():
                    return version_of(frame, number)
                low = frame.last_version + 1 if frame.number <= number else low
                high = frame.version - 1 if frame.number > number else high
                probe = high if probe == number + 1 else (low + high) // 2
        raise Corruption(-1, f"message {number} of session {session!r} is missing")


def _check_holds(frame: Frame, version: int) -> None:
    if not frame.version <= version <= frame.last_version:
        what = f"version {version} of {frame.session!r} is missing here"
        raise Corruption(frame.last_position, what)
