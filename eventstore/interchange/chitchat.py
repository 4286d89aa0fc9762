"""The chitchat dataset: thousands of real conversations of two people, read in little memory.

    {id: {"messages": [[{"text", "timestamp", "sender"}, ...one turn], ...],
          "prompt": ..., "ratings": {...}, "start": ...}}

Invariants: a conversation is decoded when its turn comes and let go afterwards; who speaks first
is the `user`, everybody else the `assistant`; a message's own time is its occurred_at.
"""

from collections.abc import Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from ..clock import to_ns
from ..errors import InvalidEvent, brief
from ..events import SessionCreated
from ..ids import check_name
from ..messages import Json, check_json
from ..patch import patched
from ..store import EventStore
from .intake import Imported, Progress, Whole, take_in
from .sources import decoded, read_document

PACKAGE, FILE = "chitchat_dataset", "dataset.json"

SOURCE = "chitchat-dataset"


class _Said(msgspec.Struct, frozen=True, gc=False):
    text: str
    timestamp: datetime
    sender: str


class _Talk(msgspec.Struct, frozen=True):
    messages: list[list[_Said]]
    prompt: str | None = None
    ratings: dict[str, Any] | None = None
    start: str | None = None


_top = msgspec.json.Decoder(dict[str, msgspec.Raw])
_talk = msgspec.json.Decoder(_Talk)


def chitchat_path() -> Path:
    """Return where the installed dataset is. Raises InvalidEvent where it is not installed."""
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise InvalidEvent(
            f"{SOURCE} is not installed; pip install 'session-eventstore[demo]' brings it"
        )
    return Path(places[0]) / FILE


def import_chitchat(
    store: EventStore,
    path: Path | None = None,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import every conversation as a session `<name>-<id>`; `name` is by default "chitchat".

    Messages are `{"role", "content", "name"}`, the name being the sender. Without a path the
    installed dataset is taken. Raises InvalidEvent and SessionExists before anything is written.
    """
    found = path or chitchat_path()
    talks = decoded(read_document(found), found.name, _top)
    if not talks:
        raise InvalidEvent(f"{found.name} holds no conversation")
    stem = name or "chitchat"
    return take_in(store, lambda: _wholes(talks, found.name, stem), progress, actor)


def _wholes(talks: dict[str, msgspec.Raw], file: str, stem: str) -> Iterator[Whole]:
    for key, raw in talks.items():
        where = f"{file} conversation {brief(key)}"
        talk = decoded(raw, where, _talk)
        said = [each for turn in talk.messages for each in turn]
        metadata = _metadata(talk)
        check_json(metadata, where)
        user = said[0].sender if said else ""
        yield Whole(
            check_name(f"{stem}-{key}", f"{where}: session id"),
            [SessionCreated(metadata=metadata)],
            [_message(each, user) for each in said],
            [_time(each, where) for each in said],
        )


def _time(said: _Said, where: str) -> int:
    try:
        return to_ns(said.timestamp)
    except InvalidEvent as error:
        raise InvalidEvent(f"{where}: {error}") from None


def _metadata(talk: _Talk) -> dict[str, Json]:
    given = {"prompt": talk.prompt, "ratings": talk.ratings, "start": talk.start}
    found: dict[str, Json] = patched({}, {"source": SOURCE, **given})
    return found


def _message(said: _Said, user: str) -> dict[str, Json]:
    role = "user" if said.sender == user else "assistant"
    return {"role": role, "content": said.text, "name": said.sender}
