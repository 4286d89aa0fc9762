"""pyeventsourcing's SQLite recorder: one row per event, all events in one order, WAL and FULL.

Two contenders: the recorder as it is, given bytes that are ready and giving bytes back, and the
recorder behind the library's own JSON transcoder, which does the work that we do: dicts in,
dicts out. Neither checks, compresses or hashes anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

import msgspec

from ..data import Message
from .base import Contender

TOPIC = "message"
PAGE_EVENTS = 5_000


class EventsourcingRecorder(Contender):
    """The recorder alone."""

    name: ClassVar[str] = "eventsourcing recorder"
    module: ClassVar[str] = "eventsourcing"
    package: ClassVar[str] = "eventsourcing"
    sqlite: ClassVar[bool] = True

    def __init__(self, place: Path) -> None:
        from eventsourcing.persistence import StoredEvent

        super().__init__(place)
        self._stored = StoredEvent
        self.reopen()
        self._versions: dict[str, int] = {}

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:
        """Return stored events, encoded and numbered."""
        first = self._versions.get(session, 0)
        self._versions[session] = first + len(messages)
        stream = uuid5(NAMESPACE_URL, session)
        return [
            self._stored(stream, first + index, TOPIC, msgspec.json.encode(each))
            for index, each in enumerate(messages)
        ]

    def append(self, session: str, prepared: Any) -> Any:  # noqa: ARG002
        """Insert in one transaction."""
        self._recorder.insert_events(prepared)

    def replay(self) -> int:
        """Read all events in order, as bytes."""
        return sum(len(page) for page in self._pages())

    def _pages(self) -> Any:
        first = 1
        while page := self._recorder.select_notifications(first, PAGE_EVENTS):
            yield page
            first = page[-1].id + 1

    def full(self, session: str) -> int:
        """Read a stream, as bytes."""
        return len(self._recorder.select_events(uuid5(NAMESPACE_URL, session)))

    def tail(self, session: str, count: int) -> int:
        """Read the last events of a stream, as bytes."""
        stream = uuid5(NAMESPACE_URL, session)
        return len(self._recorder.select_events(stream, desc=True, limit=count))

    def reopen(self) -> Any:
        """Open the file and see to its table, as a program that starts does."""
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        self._store = SQLiteDatastore(str(self.place / "events.db"))
        self._recorder = SQLiteApplicationRecorder(self._store)
        self._recorder.create_table()

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class EventsourcingJson(EventsourcingRecorder):
    """The recorder behind the library's JSON transcoder."""

    name: ClassVar[str] = "eventsourcing"

    def __init__(self, place: Path) -> None:
        from eventsourcing.persistence import JSONTranscoder

        super().__init__(place)
        self._transcoder = JSONTranscoder()

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:  # noqa: ARG002
        """Return the dicts."""
        return messages

    def append(self, session: str, prepared: Any) -> Any:
        """Encode, number and insert in one transaction."""
        first = self._versions.get(session, 0)
        self._versions[session] = first + len(prepared)
        stream, encode = uuid5(NAMESPACE_URL, session), self._transcoder.encode
        self._recorder.insert_events(
            [
                self._stored(stream, first + index, TOPIC, encode(each))
                for index, each in enumerate(prepared)
            ]
        )

    def replay(self) -> int:
        """Read all events in order and decode them."""
        decode = self._transcoder.decode
        return sum(len([decode(each.state) for each in page]) for page in self._pages())

    def full(self, session: str) -> int:
        """Read a stream and decode it."""
        found = self._recorder.select_events(uuid5(NAMESPACE_URL, session))
        return len([self._transcoder.decode(each.state) for each in found])

    def tail(self, session: str, count: int) -> int:
        """Read the last events of a stream and decode them."""
        stream = uuid5(NAMESPACE_URL, session)
        found = self._recorder.select_events(stream, desc=True, limit=count)
        return len([self._transcoder.decode(each.state) for each in found])
