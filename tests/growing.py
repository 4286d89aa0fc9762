"""A store that grows to where it learns, in a file that loads no test tools: children load it."""

import random
from pathlib import Path

from eventstore import EventStore
from eventstore.care.carrying import dictionaries_of

_SPELT = random.Random(7)
WORDS = ["".join(_SPELT.choices("bcdfghjklmnpqrstvwxz", k=11)) for _ in range(60)]


def line(number: int) -> dict[str, str]:
    """Return a message that is much like the others, in words that the starter has not."""
    chance = random.Random(number)
    words = [WORDS[chance.randrange(len(WORDS))] for _ in range(12)]
    return {"role": "user", "content": " ".join([*words, str(number)])}


def grown(store: EventStore, size: int) -> None:
    """Append messages until a store has so many events, and wait for what they set off."""
    if not store.exists("talk"):
        store.create("talk")
    for number in range(store.head().size, size):
        store.append("talk", line(number))
    settle(store)


def settle(store: EventStore) -> None:
    """Wait until what was said is committed, and what that set off is done."""
    store.flush()
    if store.fitter is not None:
        store.fitter.wait()


def numbers(store: EventStore) -> list[int]:
    """Return the numbers of a store's dictionaries."""
    return sorted(dictionaries_of(store.log))


def opened(place: Path, **options) -> EventStore:
    """Open a store that commits together what comes together."""
    return EventStore.open(place, durability="buffered", **options)
