"""The physical limit: LMDB with nothing but the bytes, in its default, fully synced mode."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import msgspec

from ..data import Message
from .base import Contender

_POSITION = struct.Struct(">Q")
MAP_BYTES = 64 << 30


class RawLmdb(Contender):
    """One put per message at the end of one tree; no index, no checksum, nothing decoded."""

    name: ClassVar[str] = "lmdb"
    kind: ClassVar = "limit"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._env = lmdb.open(str(place), map_size=MAP_BYTES, meminit=False)
        self._next = 0

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:  # noqa: ARG002
        """Return rows that are ready, numbered."""
        first = self._next
        self._next += len(messages)
        return [
            (_POSITION.pack(first + index), msgspec.json.encode(each))
            for index, each in enumerate(messages)
        ]

    def append(self, session: str, prepared: Any) -> Any:  # noqa: ARG002
        """Put in one transaction, synced."""
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(prepared, append=True)

    def replay(self) -> int:
        """Walk over all rows, copying each out of the map."""
        with self._env.begin() as txn:
            return sum(1 for _ in txn.cursor())

    def reopen(self) -> Any:
        """Open the same directory anew."""
        self._env = lmdb.open(str(self.place), map_size=MAP_BYTES, meminit=False)

    def close(self) -> None:
        """Close the file."""
        self._env.close()
