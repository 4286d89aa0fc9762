r"""Increments: what was appended since the last backup, each in a file of its own beside it.

    backup/
      eventstore.json log/          the full backup, see backup.py
      increments/00000001           what came next, 00000002 after that, ...

    file     "eventstore increment 1\n" | records | SHA-256 of all before it 32
    record   length u32, big-endian | msgpack: an Extent, then dictionaries, then frames in order

Invariants: a file begins at the head where the one before it ends, and says at which head it ends
itself; it appears whole and synced or not at all, and what a killed process has written of one goes
with the next; a frame stands in it as it is in the log, with
the names that its references stand for, sealed ones sealed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from ..audit.proof import Prover
from ..errors import UNDECODABLE, Corruption, StoreUnavailable
from ..files import alone, make_directory, sync_directory, unavailable
from ..ids import fresh_id
from ..limits import APPEND_BYTES_MAX
from ..log.base import Head, frames_between
from ..log.format import ACTOR_NAME, SESSION_NAME
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import INCREMENTS, LOG
from .carrying import Carrier, content_of, dictionaries_of, while_kept

MAGIC = b"eventstore increment 1\n"
DIGEST_BYTES = 32
RECORD_BYTES_MAX = 4 * APPEND_BYTES_MAX
"""More than a frame can have, names and heads included."""

READ_BYTES = 1 << 20
_LENGTH = Struct(">I")


class Extent(msgspec.Struct, frozen=True, array_like=True, tag="span"):
    """What an increment holds: the positions from one head of the log to another.

    `erasures` is how often payloads had been destroyed; roots in bytes, the time in ns.
    """

    store: str
    origin: str
    erasures: int
    first_size: int
    first_root: bytes
    size: int
    root: bytes
    recorded_at: int

    @property
    def end(self) -> Head:
        """The head that it ends at."""
        return Head(self.size, self.root, self.recorded_at)


class Dictionary(msgspec.Struct, frozen=True, array_like=True, tag="dictionary"):
    """A compression dictionary that the store has by now and the full backup has not."""

    number: int
    content: bytes


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="frame"):
    """A frame as it is on disk, with its kept names and what its key answers to."""

    last_position: int
    session: bytes
    actor: bytes
    content: bytes | None
    raw: bytes

    def frame(self, log: LmdbLog) -> Frame:
        """Return the frame as a reader of that log would see it. Raises Corruption."""
        frame = Frame(self.raw, self.last_position, log.codec)
        shown = log.codec.names.shown
        try:
            frame.session = shown(SESSION_NAME, self.session)
            frame.actor = shown(ACTOR_NAME, self.actor) if self.actor else None
        except ValueError as error:
            raise _damaged(self.last_position, f"a name can't be read: {error}") from None
        return frame


Record = Extent | Dictionary | Kept


def _damaged(position: int, what: str) -> Corruption:
    """Return the error of a damaged increment, which `verify` would not look at."""
    do = "'eventstore compare' checks all of a backup; make a new full one"
    return Corruption(position, what, do)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


# -- writing -----------------------------------------------------------------------------


def add_increment(log: LmdbLog, store: str, origin: str, backup: Path) -> Head:
    """Write what a log has beyond the backup of it in a directory; returns the head it then has.

    Raises StoreUnavailable where the backup is of another store, or has what the store has not.
    """
    directory = backup / INCREMENTS
    with unavailable(directory):
        make_directory(directory)
    with alone(directory / ".lock"):
        _drop_unfinished(directory)
        extents = extents_of(backup)
        newest, erasures, known = _newest(backup, extents)
        head = log.head()
        _check_leads(log, backup, newest, erasures, head)
        if head.size == newest.size:
            return newest
        ends = newest.size, newest.root, head.size, head.root, head.recorded_at
        extent = Extent(store, origin, erasures, *ends)
        _write(directory, len(extents) + 1, log, extent, known)
        return head


def _drop_unfinished(directory: Path) -> None:
    """Remove what whoever was killed has left: it holds what may be redacted by now."""
    with unavailable(directory):
        for left in directory.glob(_beside("*", "*")):
            left.unlink()


def _beside(increment: str, number: str) -> str:
    """Return what an increment is called while it is written."""
    return f".{increment}.{number}"


def _newest(backup: Path, extents: list[Extent]) -> tuple[Head, int, set[int]]:
    """Return the head of a backup with its increments, its erasure count and dictionaries."""
    with presence.reading(backup), closing(LmdbLog(backup / LOG, read_only=True)) as base:
        end = extents[-1].end if extents else base.head()
        return end, base.erasures(), set(dictionaries_of(base))


def _check_leads(log: LmdbLog, backup: Path, newest: Head, erasures: int, head: Head) -> None:
    if log.erasures() != erasures:
        raise StoreUnavailable(
            f"payloads were destroyed since {backup} was made, and it still has them; make a new "
            "full backup elsewhere and destroy this one"
        )
    if newest.size > head.size or Prover.of(log).root(newest.size) != newest.root:
        raise StoreUnavailable(
            f"{backup} holds {newest.size} events that are not the first of this store; "
            "make a new full backup elsewhere"
        )


def _write(directory: Path, number: int, log: LmdbLog, extent: Extent, known: set[int]) -> None:
    place = directory / f"{number:08}"
    beside = directory / _beside(place.name, fresh_id())
    try:
        with beside.open("xb") as file:
            _write_all(file, log, extent, known)
            file.flush()
            os.fsync(file.fileno())
        if log.erasures() != extent.erasures:
            raise StoreUnavailable("payloads were destroyed meanwhile; make a new full backup")
        beside.rename(place)
        sync_directory(directory)
    except OSError as error:
        raise StoreUnavailable(f"{place} can't be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def _write_all(file: BinaryIO, log: LmdbLog, extent: Extent, known: set[int]) -> None:
    digest = sha256(MAGIC)
    file.write(MAGIC)
    for record in _records(log, extent, known):
        raw = _encode(record)
        for part in (_LENGTH.pack(len(raw)), raw):
            digest.update(part)
            file.write(part)
    file.write(digest.digest())


def _records(log: LmdbLog, extent: Extent, known: set[int]) -> Iterator[Record]:
    """Iterate over an increment; `known` are the dictionaries that the full backup has."""
    yield extent
    for number, content in dictionaries_of(log).items():
        if number not in known:
            yield Dictionary(number, content)
    kept = log.codec.names.kept
    for frame in frames_between(log, extent.first_size, extent.size):
        actor = kept(ACTOR_NAME, frame.actor) if frame.actor else b""
        session = kept(SESSION_NAME, frame.session)
        yield Kept(frame.last_position, session, actor, content_of(log, frame), frame.raw)


# -- reading -----------------------------------------------------------------------------


def extents_of(backup: Path) -> list[Extent]:
    """Return what each increment of a backup holds, in order; raises Corruption for a gap."""
    found: list[Extent] = []
    for number, path in enumerate(_paths(backup), 1):
        if path.name != f"{number:08}":
            raise _damaged(-1, f"{path}: increment {number:08} is missing")
        extent = next(_read(path), None)
        if not isinstance(extent, Extent):
            raise _damaged(-1, f"{path} does not say what it holds")
        if found and (found[-1].size, found[-1].root) != (extent.first_size, extent.first_root):
            raise _damaged(extent.first_size, f"{path} does not go on where the one before it ends")
        found.append(extent)
    return found


def _paths(backup: Path) -> list[Path]:
    try:
        found = sorted((backup / INCREMENTS).iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if not path.name.startswith(".")]


def _read(path: Path) -> Iterator[Record]:
    """Iterate over the records of a file. Raises Corruption."""
    end = path.stat().st_size - DIGEST_BYTES
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise _damaged(-1, f"{path} is no increment of a backup")
        while file.tell() < end:
            length = int.from_bytes(file.read(_LENGTH.size), "big")
            if length > min(RECORD_BYTES_MAX, end - file.tell()):
                raise _damaged(-1, f"{path} ends in the midst of a record")
            try:
                yield _decode(file.read(length))
            except UNDECODABLE:  # what it says may quote the damage, in several lines
                raise _damaged(-1, f"{path} holds a record that can't be read") from None


def check_increment(path: Path) -> None:
    """Raise Corruption unless a file is, byte for byte, what was written."""
    digest = sha256()
    left = path.stat().st_size - DIGEST_BYTES
    with path.open("rb") as file:
        while left > 0:
            part = file.read(min(READ_BYTES, left))
            digest.update(part)
            left -= len(part)
        if left < 0 or file.read() != digest.digest():
            raise _damaged(-1, f"{path} does not match its checksum")


def check_increments(backup: Path) -> None:
    """Raise Corruption unless all increments of a backup are whole and follow each other."""
    for path in _paths(backup):
        check_increment(path)
    extents_of(backup)


def replay(backup: Path, log: LmdbLog, keeps: Callable[[Frame], bool]) -> None:
    """Append the increments of a backup to a copy of it, up to the first frame that is not kept.

    Raises Corruption, also where an increment does not lead to the head that it states.
    """
    check_increments(backup)
    for path, extent in zip(_paths(backup), extents_of(backup), strict=True):
        before = log.head()
        if (before.size, before.root) != (extent.first_size, extent.first_root):
            raise _damaged(before.size, f"{path} does not go on where the backup ends")
        carrier = Carrier(log)
        contents: dict[int, bytes | None] = {}
        for frame in while_kept(_frames(path, log, contents), keeps):
            carrier.take(frame, contents.pop(frame.position))
        carrier.finish()
        after = log.head()
        if after.size < extent.size:
            return
        if after.root != extent.root:
            raise _damaged(extent.first_size, f"{path} does not lead to the head that it states")


def _frames(path: Path, log: LmdbLog, contents: dict[int, bytes | None]) -> Iterator[Frame]:
    """Iterate over an increment's frames; notes what their keys answer to, adds dictionaries."""
    for record in _read(path):
        if isinstance(record, Dictionary):  # one that came with an earlier increment stays
            log.add_dictionary(record.content, record.number)
        elif isinstance(record, Kept):
            frame = record.frame(log)
            contents[frame.position] = record.content
            yield frame
