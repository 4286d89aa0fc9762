"""What is gone, as rows of the table `meta`: how often, which lines, which sessions.

Invariants: a log that never lost a payload has none of these rows; the count is raised in the
transaction that takes payloads away, so whoever knows the count knows whether a cache is stale;
an erased session has its row for ever, and nothing but the end of its erasure comes after it.
"""

from collections.abc import Iterable, Iterator, Mapping

import lmdb

from ..errors import Corruption
from ..events import Span
from .format import (
    COMPLETE,
    ERASED_KEY,
    ERASURES_KEY,
    HIDDEN_KEY,
    HIDDEN_ROW,
    PENDING,
    POSITION,
    REF,
)
from .rows import checked_row, checked_value
from .shredding import hidden_with


class ErasedRows:
    """Reader and writer of the rows; sessions are given by their references."""

    def __init__(self, meta: lmdb._Database) -> None:
        self._meta = meta

    def count(self, txn: lmdb.Transaction) -> int:
        """Return how often payloads were destroyed."""
        found = txn.get(ERASURES_KEY, db=self._meta)
        if found is None:
            return 0
        return int(POSITION.unpack(checked_value(found, "the erasure count"))[0])

    def raise_count(self, txn: lmdb.Transaction) -> None:
        """Count one more time."""
        row = checked_row(POSITION.pack(self.count(txn) + 1))
        txn.put(ERASURES_KEY, row, db=self._meta)

    def note(self, txn: lmdb.Transaction, erasing: Mapping[int, bool]) -> None:
        """Note for each session whether its erasure begins (True) or is complete."""
        for ref, begins in erasing.items():
            row = checked_row(PENDING if begins else COMPLETE)
            txn.put(ERASED_KEY + REF.pack(ref), row, db=self._meta)

    def is_erased(self, txn: lmdb.Transaction, ref: int) -> bool:
        """Return True for a session whose erasure has begun."""
        return txn.get(ERASED_KEY + REF.pack(ref), db=self._meta) is not None

    def erased(self, txn: lmdb.Transaction) -> dict[int, bool]:
        """Return, for each erased session, whether its erasure is still going on."""
        return {ref: _is_pending(row) for ref, row in self._rows(txn, ERASED_KEY)}

    def hide(self, txn: lmdb.Transaction, session: str, ref: int, lines: Iterable[Span]) -> None:
        """Add lines of a session to those that no list may show."""
        key = HIDDEN_KEY + REF.pack(ref)
        found = txn.get(key, db=self._meta)
        known = _spans(session, found) if found else []
        rows = (HIDDEN_ROW.pack(s.note, s.start, s.stop) for s in hidden_with(known, lines))
        txn.put(key, checked_row(b"".join(rows)), db=self._meta)

    def hidden(self, txn: lmdb.Transaction, session: str, ref: int) -> list[Span]:
        """Return the lines of one session that no list may show."""
        found = txn.get(HIDDEN_KEY + REF.pack(ref), db=self._meta)
        return _spans(session, found) if found else []

    def hiding(self, txn: lmdb.Transaction) -> list[int]:
        """Return the sessions that have such lines."""
        return [ref for ref, _ in self._rows(txn, HIDDEN_KEY)]

    def _rows(self, txn: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[int, bytes]]:
        cursor = txn.cursor(self._meta)
        for key, row in cursor if cursor.set_range(prefix) else ():
            if bytes(key[: len(prefix)]) != prefix:
                return
            yield REF.unpack(key[len(prefix) :])[0], bytes(row)


def _is_pending(row: bytes) -> bool:
    value = checked_value(row, "an erasure")
    if value not in (PENDING, COMPLETE):
        raise Corruption(-1, f"an erasure is neither pending nor complete but {value!r}")
    return value == PENDING


def _spans(session: str, row: bytes | memoryview) -> list[Span]:
    value = checked_value(row, f"the list of hidden lines of session {session!r}")
    return [Span(session, start, stop, bool(n)) for n, start, stop in HIDDEN_ROW.iter_unpack(value)]
