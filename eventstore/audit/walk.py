"""The walk along the log: every frame, every event, and the tree they make, from scratch.

Invariants: it goes on after damage and names each position; where an event can't be hashed the
tree goes on with a stand-in, so that every tile without damage is still compared; memory does
not grow with the number of events.
"""

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from ..errors import UNDECODABLE, Corruption, KeyShredded
from ..events import KeyCreated, MessageAppended
from ..limits import EVENT_BYTES_MAX
from ..log.base import Log
from ..log.codec import decode
from ..log.format import FRAME_FLAGS, MESSAGE, SEALED, SHREDDED, U32_MAX
from ..log.frame import Frame, Row
from ..messages import ROLES, role_code
from .entry import entry_digests, payload_commitment
from .erasures import REASONS, Erasures
from .leaves import frame_common, frame_entry
from .relations import MERGED, Merges, Named, Place, Places, Relations
from .report import Notes
from .seals import Seals
from .tree import Frontier, leaf_hash

STAND_INS_MAX = 1_000_000
"""Positions in a row that may be lost before the tree is given up."""

LOSSES_MAX = 100_000
"""Separate stretches of lost positions before the tree is given up."""

_STAND_IN = bytes(32)

Tile = tuple[int, int, bytes]
"""Level, index and root of a full tile."""


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """What a walk along some frames found, all of which are sound if what was claimed is true.

    They hold the positions `begin <= position < end` and were recorded from `first_at` to
    `last_at`. Each of `places` is a stream's reference, how far its index says that it had come in
    front of them, and how far it came. `loose` are the first leaves, `subtrees` level and root of
    full subtrees over the others. `open` are the last positions of the frames that judge() needs.
    """

    begin: int
    end: int
    first_at: int = 0
    last_at: int = 0
    places: list[tuple[int, Place, Place]] = []
    loose: list[bytes] = []
    subtrees: list[tuple[int, bytes]] = []
    open: list[int] = []
    keys: int = 0
    checked: dict[str, int] = {}


class Losses:
    """Stretches of positions whose events could not be hashed, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Note the positions `start <= position < stop`."""
        if self._stops and self._stops[-1] == start:
            self._stops[-1] = stop
        else:
            self._starts.append(start)
            self._stops.append(stop)

    def touch(self, start: int, stop: int) -> bool:
        """Return True if any position of the range is lost."""
        index = bisect_right(self._stops, start)
        return index < len(self._starts) and self._starts[index] < stop


class Walk:
    """Takes frames in order and checks each against all that came before.

    `start` is where it began, `next` the position it expects, `recorded_at` the time of the newest
    frame, `places` how far each stream has come, `erasures` what is gone and `merges` the halves of
    merges; `frontier` is the tree up to the last grow(), the log's own where `whole`, and `leaves`
    what it takes next; `keys` counts the frames with an idempotency key.
    """

    def __init__(
        self,
        log: Log,
        size: int,
        named: Named,
        notes: Notes,
        *,
        deep: bool,
        places: Places | None = None,
        erasures: Erasures | None = None,
        merges: Merges | None = None,
    ) -> None:
        self.size, self.start, self.next, self.recorded_at = size, 0, 0, 0
        self.frontier, self.losses = Frontier(), Losses()
        self.leaves: list[bytes] = []
        self.keys = 0
        self.places = places or Places()
        self.erasures, self.merges = erasures or Erasures(notes), merges or Merges(notes)
        self._tree_lost = False
        self._tiles: list[Tile] = []
        self._relations = Relations(self.places, named, self.merges, notes)
        self._seals, self._locked = Seals(log.codec.seal, notes), log.codec.locked
        self._log, self._notes, self._deep = log, notes, deep

    def resume(self, frontier: Frontier, places: Iterable[tuple[int, Place]], at: int) -> None:
        """Go on behind events that were verified before; `at` is the time of the last of them."""
        self.start = self.next = frontier.size
        self.frontier, self.recorded_at = frontier, at
        for ref, place in places:
            self.places.move(ref, *place)

    @property
    def whole(self) -> bool:
        """True if every event so far could be hashed."""
        return not self.losses

    def take(self, last: int, frame: Frame | None) -> None:
        """Check the frame whose last position is `last`, None for one that can't be read."""
        if not self.next <= last < self.size:
            self._notes.add(last, f"a frame ends here where position {self.next} should be next")
        elif frame is None:
            self._lose(last + 1)
        elif frame.position < self.next:
            self._notes.add(frame.position, "two frames hold this position")
            self._lose(last + 1)
        else:
            self._gap(frame.position)
            self._check_place(frame)
            self.leaves += self._leaves(frame)
            self.next = last + 1
            self.places.move(frame.session_ref, frame.last_version + 1, frame.next_number(), last)

    def leap(self, stretch: Stretch) -> list[Tile] | None:
        """Take a stretch that was found sound elsewhere as if its frames had come one by one.

        Returns tiles as grow() does; None where it does not go on from here, and nothing changed.
        """
        claimed = all(self.places.fits(ref, begun) for ref, begun, _ in stretch.places)
        if not claimed or stretch.begin != self.next or stretch.first_at < self.recorded_at:
            return None
        if self._tree_lost:
            return None
        for ref, _, ended in stretch.places:
            self.places.move(ref, *ended)
        self.next, self.recorded_at = stretch.end, stretch.last_at
        self.keys += stretch.keys
        self._notes.checked.update(stretch.checked)
        tiles = self.frontier.extend(stretch.loose)
        for level, node in stretch.subtrees:
            tiles += self.frontier.join(level, node)
        return self._undamaged(tiles)

    def judge(self, frame: Frame) -> None:
        """Take from a frame of such a stretch what only the order of the whole log can judge."""
        for index, row in enumerate(frame.rows()):
            gone = bool(row[5] & SHREDDED)
            if not gone and row[3] != MERGED and row[3] not in REASONS:
                continue
            event = frame.structure(index)
            if gone:
                self.erasures.left(frame, index)
            if row[3] == MERGED:
                self.merges.take(frame, index, event)
            if not gone:
                self.erasures.said(frame, row[3], event)

    def grow(self) -> list[Tile]:
        """Add the leaves to the tree; return the tiles they complete, without those with damage."""
        leaves, self.leaves = self.leaves, []
        if not self._tree_lost:
            return self._undamaged(self.frontier.extend(leaves))
        tiles, self._tiles = self._tiles, []
        return tiles

    def finish(self) -> list[Tile]:
        """Take the end of the log; returns tiles as grow() does."""
        if not self._seals.gone:  # else the other half of a merge may be there, unread
            self.merges.finish()
        if self.whole and not self._locked:
            self._seals.finish()
            self.erasures.finish()
        self._gap(self.size)
        return self.grow()

    # -- places --------------------------------------------------------------------------

    def _gap(self, stop: int) -> None:
        if stop > self.next:
            self._notes.add(self.next, f"no frame holds positions {self.next} to {stop - 1}")
            self._lose(stop)

    def _lose(self, stop: int) -> None:
        """Go on behind positions whose events can't be read."""
        start, self.next = self.next, stop
        self.losses.add(start, stop)
        if stop - start > STAND_INS_MAX or len(self.losses) > LOSSES_MAX:
            self._tiles += self.grow()
            self._tree_lost = True
        else:
            self.leaves += [_STAND_IN] * (stop - start)

    def _undamaged(self, tiles: list[Tile]) -> list[Tile]:
        if self.whole:
            return tiles
        return [tile for tile in tiles if not self.losses.touch(*_range(tile))]

    def _check_place(self, frame: Frame) -> None:
        """Compare the numbers in the frame's head with what came before."""
        here = frame.version, frame.number, frame.previous
        if not self.places.fits(frame.session_ref, here) and not self._follows_a_loss(frame):
            due = self.places.at(frame.session_ref)
            what = f"session {frame.session!r} has (version, message number, previous position)"
            self._notes.add(frame.position, f"{what} {here} where {due} belongs")
        if bool(frame.kept_session) != (frame.version == 0):
            self._notes.add(frame.position, "a session's name stands in its first frame alone")
        if frame.recorded_at < self.recorded_at:
            self._notes.add(frame.position, "it was recorded before the event in front of it")
        if frame.continues and not self._may_go_on(frame):
            self._notes.add(frame.position, "it goes on with an append that it is no part of")
        self.recorded_at = max(frame.recorded_at, self.recorded_at)
        if frame.flags & ~FRAME_FLAGS:
            self._notes.add(frame.position, f"frame flags {frame.flags:#x} are of no known kind")
        if frame.only_messages != all(row[3] == MESSAGE for row in frame.rows()):
            self._notes.add(frame.position, "the frame's flag about its types is wrong")

    def _may_go_on(self, frame: Frame) -> bool:
        """Return True where the frame in front is of the same append, or could not be read."""
        front = frame.position - 1
        if front < 0:
            return False
        if self.losses.touch(front, front + 1):
            return True
        try:
            return frame.goes_on(self._log.read_all(front, 1)[0])
        except Corruption as error:  # who reads in order found it, who looks for it does not
            self._notes.add_error(error, front)
            return True

    def _follows_a_loss(self, frame: Frame) -> bool:
        """Return True if the event before this frame is one that could not be read."""
        due = self.places.at(frame.session_ref)
        lost = self.losses.touch(frame.previous, frame.previous + 1)
        return (
            lost and frame.previous > due[2] and frame.version > due[0] and frame.number >= due[1]
        )

    # -- events --------------------------------------------------------------------------

    def _leaves(self, frame: Frame) -> list[bytes]:
        """Check each event of a frame; return their leaf hashes, a stand-in where one is lost."""
        leaves: list[bytes] = []
        try:
            common = frame_common(frame)
        except Corruption as error:
            self._notes.add_error(error, frame.position)
            self.losses.add(frame.position, frame.last_position + 1)
            return [_STAND_IN] * frame.count
        for index, row in enumerate(frame.rows()):
            digests = self._digests(frame, index, row)
            if digests is None:
                self.losses.add(frame.position + index, frame.position + index + 1)
                leaves.append(_STAND_IN)
            else:
                leaves.append(leaf_hash(frame_entry(frame, index, common, digests)))
        return leaves

    def _digests(self, frame: Frame, index: int, row: Row) -> bytes | None:
        """Check one event and return its entry's two digests, None where it is damaged."""
        if row[1] > EVENT_BYTES_MAX:
            self._notes.add(frame.position + index, f"payload of {row[1]} bytes is over the limit")
            return None
        if row[6] >= len(ROLES):
            self._notes.add(frame.position + index, f"role {row[6]} is of no known kind")
        try:
            if row[5] & SHREDDED:
                return self._left(frame, index)
            self._seals.check(frame, index, row)
            return self._opened(frame, index)
        except Corruption as error:
            self._notes.add_error(error, frame.position + index)
            return None

    def _opened(self, frame: Frame, index: int) -> bytes:
        """Check a payload, where there is a key for it; return its event's two digests."""
        if self._locked:
            self.erasures.said(frame, frame.row(index)[3], None)
            self._notes.checked["payloads left sealed"] += 1
            return frame.digests(index)
        try:
            row, salt, payload = frame.unpacked(index)
        except KeyShredded:
            self._seals.lose(frame, index)
            return frame.digests(index)
        if self._deep or row[3] != MESSAGE:
            self._check_event(frame, index, row, payload)
        commitment = payload_commitment(salt, payload)
        if not row[5] & SEALED:
            return entry_digests(commitment)
        return self._in_front(frame, index, commitment)

    def _in_front(self, frame: Frame, index: int, commitment: bytes) -> bytes:
        """Compare the commitment of an opened payload with the one in front of it."""
        digests = frame.digests(index)
        if not digests.startswith(commitment):
            self._notes.add(frame.position + index, "the commitment in front is another payload's")
        return digests

    def _left(self, frame: Frame, index: int) -> bytes:
        """Check what is left of an event that was redacted or erased; return its digests."""
        self.erasures.left(frame, index)
        if not self._locked:
            self._relations.check(frame, index, frame.structure(index))
        return frame.digests(index)

    def _check_event(self, frame: Frame, index: int, row: Row, payload: bytes) -> None:
        """Decode an event and compare it with its head and with the events it speaks of."""
        try:
            event = decode(row[3], row[4], payload, frame.session, frame.version + index)
        except (KeyError, *UNDECODABLE) as error:
            self._notes.add(frame.position + index, f"payload is no event: {error}")
            return
        if isinstance(event, MessageAppended):
            copies = min(event.tokens, U32_MAX), role_code(event.message.fields)
        else:
            copies = 0, 0
            self._relations.check(frame, index, event)
            self.erasures.said(frame, row[3], event)
            if isinstance(event, KeyCreated):
                self._seals.created(frame.position + index, event)
        if copies != (row[2], row[6]):
            what = f"tokens {row[2]} and role {row[6]} in the event's head should be {copies}"
            self._notes.add(frame.position + index, what)


def _range(tile: Tile) -> tuple[int, int]:
    level, index, _ = tile
    return index << level, (index + 1) << level
