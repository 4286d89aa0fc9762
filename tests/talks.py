"""What tests of files say, write and read back: messages, sessions, and the appends they lie in."""

import json
from pathlib import Path

from eventstore import EventStore
from projections import SessionState

SECOND = 1_000_000_000


def said(content: str, role: str = "user", **more) -> dict:
    """Return a message."""
    return {"role": role, "content": content, **more}


def written(path: Path, value) -> Path:
    """Write a value as JSON; return the path."""
    path.write_text(json.dumps(value))
    return path


def shown(store: EventStore, session: str, version: int | None = None) -> list[dict]:
    """Return the visible messages, now or at a version."""
    state = SessionState.of(store, session, at_version=version)
    return [message.to_dict() for message in state.messages]


def frames(store: EventStore) -> list[tuple]:
    """Return what tells one append from another, in order."""
    made = []
    while more := store.log.read_all(made[-1][0] + made[-1][1] if made else 0):
        made += [(f.position, f.count, f.session, f.recorded_at, f.actor, f.key) for f in more]
    return made
