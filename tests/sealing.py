"""What a store says of its sessions, as tests of encrypted stores compare it."""

from eventstore import EventStore
from eventstore.ids import SYSTEM


def facts_of(store: EventStore) -> list[tuple]:
    """Return all that a store says of its sessions' events, without their positions."""
    told = ("session", "version", "recorded_at", "occurred_at", "actor", "key", "role", "tokens")
    return [
        (*(getattr(each, name) for name in told), each.event)
        for each in store.all()
        if each.session != SYSTEM
    ]
