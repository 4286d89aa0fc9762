"""What was done to a log: its entries against those that were signed, and a name for it.

Invariants: pure over entries; the first difference is named, since what follows from it is no
second one; payloads are recognised by their salted commitments, which no two events share.
"""

from collections.abc import Callable, Sequence
from struct import Struct

from ..errors import counted

ENTRIES_COMPARED_MAX = 1_024
"""How far behind the first difference events are looked for that moved."""

_ENTRY = Struct(">BBHHHqQQQ32s32s32s32s32s32s")
_FIELDS = (
    "format",
    "flags",
    "type",
    "schema",
    "padding",
    "occurred_at",
    "version",
    "previous position",
    "recorded_at",
    "session",
    "actor",
    "correlation_id",
    "causation_id",
)
"""What comes before the payload commitment and the digest of sealed bytes."""

_COMMITMENT = slice(168, 200)

Entries = Sequence[bytes]
Search = Callable[[bytes], int | None]
"""Finds the earlier position whose payload has this commitment, None where there is none."""


def commitment_of(entry: bytes) -> bytes:
    """Return the payload commitment in an entry."""
    return entry[_COMMITMENT]


def first_difference(signed: Entries, found: Entries) -> int | None:
    """Return the index of the first event that is not as it was signed, None where there is none.

    What was found behind the last signed event is no difference: a log grows.
    """
    for index, (was, now) in enumerate(zip(signed, found, strict=False)):
        if was != now:
            return index
    return len(found) if len(found) < len(signed) else None


def name_of(signed: Entries, found: Entries, earlier: Search) -> str:
    """Return what was done to the events behind the first difference, which both begin with."""
    changed = _changed(signed[0], found[0])
    was, now = [*map(commitment_of, signed)], [*map(commitment_of, found)]
    if was[0] == now[0]:
        return f"metadata changed: {', '.join(changed)} of this event is not what was signed"
    return _moved(was, now) or _new(was, now, earlier(now[0]), changed)


def _moved(was: Entries, now: Entries) -> str | None:
    """Name what was done where the event that stands here was signed further on."""
    if now[0] not in was:
        return None
    other = was.index(now[0])
    if was[0] in now:
        return f"reordered: the event that was signed {other} positions later stands here"
    return f"deleted: {counted(other, 'event')} signed from here on, later ones moved up"


def _new(was: Entries, now: Entries, again: int | None, changed: Sequence[str]) -> str:
    """Name what was done where the event that stands here was not signed here or further on."""
    if again is not None:
        return f"replayed: the event of position {again} stands here once more"
    if was[0] in now:
        what = f"{counted(now.index(was[0]), 'event')} from here on, never signed"
        return f"inserted: {what}: forged, or the record of another store"
    if not changed:
        return "edited: this event's payload is not what was signed"
    if set(was) & set(now):
        return "forged: another event, never signed, stands in the place of this one"
    return "rolled back: from here on the log holds other events than were signed"


def _changed(signed: bytes, found: bytes) -> list[str]:
    pairs = zip(_FIELDS, _ENTRY.unpack(signed), _ENTRY.unpack(found), strict=False)
    return [name for name, was, now in pairs if was != now]
