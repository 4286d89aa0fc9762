"""The demo's witness: what every session showed when, kept in plain lists beside the store.

Invariants: it knows nothing of events, folds or lineage: it does to lists what a command means,
writes down where the receipt says that happened, and never asks the store what it shows; so a
replay that agrees with it was right, and one that doesn't is counted.
"""

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, TypeVar

from projections import SessionState

from .. import EventStore, Receipt

Thing = TypeVar("Thing")

MOMENTS = ("version", "position", "recorded_at")


class Entry(NamedTuple):
    """From this version, position and time (ns) on the session showed the first `lines` texts."""

    version: int
    position: int
    recorded_at: int
    texts: list[str]
    lines: int

    def shown(self) -> list[str]:
        """Return the texts that were shown."""
        return self.texts[: self.lines]


class Journal:
    """Entries of sessions, oldest first."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}

    def note(self, receipt: Receipt, texts: list[str]) -> None:
        """Write down what a session shows after a command; the list must not change any more."""
        entry = Entry(receipt.version, receipt.position, receipt.recorded_at, texts, len(texts))
        self.enter(receipt.session, entry)

    def enter(self, session: str, entry: Entry) -> None:
        """Write down an entry of a session, newer than all it has."""
        self.entries.setdefault(session, []).append(entry)

    def now(self, session: str) -> list[str]:
        """Return what a session shows now."""
        return self.entries[session][-1].shown()

    def then(self, session: str, moment: str, value: int) -> list[str] | None:
        """Return what a session showed at a moment, None where it did not exist yet."""
        entries = self.entries[session]
        index = bisect_right(entries, value, key=attrgetter(moment))
        return entries[index - 1].shown() if index else None


def texts_of(state: SessionState) -> list[str]:
    """Return the texts that a state shows."""
    return [message.text for message in state.messages]


class Replays:
    """Counts replays, and remembers those that differed from the journal."""

    def __init__(self, store: EventStore, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self.count = 0
        self.wrong: list[str] = []

    def compare(self, session: str, moment: str, value: int) -> None:
        """Replay one session to one moment and hold the result to the journal."""
        expected = self.journal.then(session, moment, value)
        if expected is None:
            return
        at = {"at_time" if moment == "recorded_at" else f"at_{moment}": value}
        found = texts_of(SessionState.of(self.store, session, **at))
        self.count += 1
        if found != expected:
            what = f"{len(found)} messages differ from the {len(expected)} that were current"
            self.wrong.append(f"{session} at {moment} {value}: {what}")

    def compare_all(self, session: str, entries: Sequence[Entry]) -> None:
        """Replay a session to these entries' moments: by version, by position and by time."""
        for entry in entries:
            for moment in MOMENTS:
                self.compare(session, moment, getattr(entry, moment))


def spread(things: Sequence[Thing], count: int) -> list[Thing]:
    """Return `count` of the things, the first and the last and evenly between."""
    if len(things) <= count:
        return list(things)
    return [things[index * (len(things) - 1) // (count - 1)] for index in range(count)]
