"""The data export of ChatGPT: each conversation is a tree, whose other ends become branches.

    [{"id": ..., "title": ..., "current_node": id, "mapping": {id: node, ...}}, ...]

    node      {"id": ..., "parent": id or null, "children": [...], "message": message or null}
    message   {"id": ..., "author": {"role", "name"}, "content": {"content_type", "parts"},
               "create_time": seconds, "metadata": {"model_slug", ...}, ...}

Invariants: the session shows the messages on the way to the current node, and each other end of
the tree, left behind by an edit or another answer, is a branch that begins where its way parts;
each message is stored once, unless branches would lie too deep, with all that the export says of
it; only what is no message, and system messages without a word, are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import DepthExceeded, InvalidEvent, brief
from ..events import BranchCreated, Event, SessionCreated
from ..ids import check_name
from ..messages import Json
from ..store import EventStore
from .chat import checked_messages, named, opening_of, times_of, values_of
from .intake import Imported, Progress, Whole, take_in

MAPPING = "mapping"
"""The key under which a conversation has its tree."""

EDITED, AGAIN = "another question", "another answer"
"""What branches are called: who speaks first in them says how they came about."""


class _Node(msgspec.Struct, frozen=True):
    """A place in the tree; a message is an object of which only a part is looked at."""

    message: dict[str, Any] | None = None
    parent: str | None = None


class _Place(NamedTuple):
    """Where a node came to stand: the version of a session after it, and how deep that lies."""

    session: str
    version: int
    depth: int


def import_chatgpt(
    store: EventStore,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import every conversation of an export as a session, its other ends as branches.

    A session is called by the conversation's id, its branches `<id>-branch-<number>`; the title
    is metadata. Raises InvalidEvent, SessionExists and DepthExceeded before anything is written.
    """
    stem, depth_max = name or path.stem, store.engine.max_depth
    return take_in(store, lambda: _wholes(path, stem, depth_max), progress, actor)


def _wholes(path: Path, stem: str, depth_max: int) -> Iterator[Whole]:
    for (where, value), name in named(values_of(path), stem):
        if not isinstance(value, dict) or MAPPING not in value:
            raise InvalidEvent(f"{where} is no conversation: it has no {MAPPING}")
        rest = dict(value)
        nodes = _nodes(rest.pop(MAPPING), where)
        session, created = opening_of(path, where, rest, name)
        tree = _Tree(where, nodes, session, depth_max)
        yield from tree.wholes(created, rest.get("current_node"))


def _nodes(mapping: Json, where: str) -> dict[str, _Node]:
    """Return the nodes of a tree, their messages as they are kept here."""
    try:
        nodes = msgspec.convert(mapping, dict[str, _Node])
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"{where} has an unexpected shape: {error}") from None
    return {
        key: _Node(_message(node.message or {}, f"{where}, message {brief(key)}"), node.parent)
        for key, node in nodes.items()
    }


class _Tree:
    """The tree of one conversation, put down path by path: first the current one."""

    def __init__(self, where: str, nodes: dict[str, _Node], session: str, depth_max: int) -> None:
        self._where, self._nodes, self._session = where, nodes, session
        self._depth_max = depth_max
        self._places: dict[str, _Place] = {}
        self._branches = 0

    def wholes(self, created: SessionCreated, current: Json) -> Iterator[Whole]:
        """Iterate over the session and its branches, each after what it branches off."""
        ends = self._ends(current)
        yield self._put([created], self._path(ends[0]) if ends else [], self._session, 0)
        for end in ends[1:]:
            path = self._path(end)
            parent = self._places.get(self._nodes[path[0]].parent or "", self._start)
            if any(self._nodes[each].message for each in path):
                yield self._branch(parent, path)
            else:
                self._places = dict.fromkeys(path, parent) | self._places
        if len(self._places) < len(self._nodes):
            raise self._circle()

    @property
    def _start(self) -> _Place:
        return _Place(self._session, 0, 0)

    def _ends(self, current: Json) -> list[str]:
        """Return the nodes that nothing follows, the current one, or else the newest, first."""
        parents = {node.parent for node in self._nodes.values()}
        ends = [each for each in self._nodes if each not in parents]
        first = [current] if isinstance(current, str) and current in self._nodes else ends[-1:]
        return first + [each for each in ends if each not in first]

    def _path(self, end: str) -> list[str]:
        """Return the nodes that lead to `end`, from behind the last one a branch may leave."""
        path: dict[str, None] = {}
        at: str | None = end
        while at in self._nodes and not self._bears(at):
            if at in path:
                raise self._circle()
            path[at] = None
            at = self._nodes[at].parent
        return [*path][::-1]

    def _bears(self, node: str) -> bool:
        """Return True for a node that has its place, not too deep for a branch."""
        place = self._places.get(node)
        return place is not None and place.depth < self._depth_max

    def _branch(self, parent: _Place, path: list[str]) -> Whole:
        if self._depth_max < 1:
            raise DepthExceeded(1, self._depth_max)
        self._branches += 1
        own = (self._nodes[each].message for each in path)
        role = next(message["role"] for message in own if message)
        name = EDITED if role == "user" else AGAIN
        opening = BranchCreated(parent.session, parent.version, name)
        session = f"{self._session}-branch-{self._branches}"
        check_name(session, f"{self._where}: session id")
        return self._put([opening], path, session, parent.depth + 1)

    def _put(self, opening: list[Event], path: list[str], session: str, depth: int) -> Whole:
        """Return a session of the messages on a path, and note where each came to stand."""
        messages: list[dict[str, Json]] = []
        for each in path:
            message = self._nodes[each].message
            messages += [message] if message else []
            self._places.setdefault(each, _Place(session, len(messages), depth))
        checked_messages(messages, f"{self._where}, session {session!r}")
        return Whole(session, opening, messages, times_of(messages))

    def _circle(self) -> InvalidEvent:
        return InvalidEvent(f"{self._where}: its messages follow each other in a circle")


# -- messages ----------------------------------------------------------------------------


def _message(said: dict[str, Any], where: str) -> dict[str, Json] | None:
    """Return a message in the shape that others have, what that lacks beside it; None for none."""
    rest = {key: value for key, value in said.items() if value not in (None, {}, [])}
    if not rest:
        return None
    author, content = rest.pop("author", None), rest.pop("content", {})
    if not isinstance(author, dict) or not isinstance(author.get("role"), str):
        raise InvalidEvent(f"{where} has no author with a role")
    if not isinstance(content, dict):
        raise InvalidEvent(f"{where} has a content that is no object")
    metadata = rest.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    if more := {key: author[key] for key in author.keys() - {"role", "name"} if author[key]}:
        rest["author"] = more
    shown = _content(content)
    if author["role"] == "system" and shown == "" and not about.get("is_user_system_message"):
        return None
    found = {
        "role": author["role"],
        "content": shown,
        "id": rest.pop("id", None),
        "name": author.get("name"),
        "model": about.get("model_slug"),
        "created_at": rest.pop("create_time", None),
        "chatgpt": rest,
    }
    return {key: value for key, value in found.items() if value is not None}


def _content(content: dict[str, Any]) -> Json:
    """Return plain text as it is, all else as parts that say their type."""
    kind = content.get("content_type", "text")
    if content.keys() - {"content_type"} != {"parts"} or not isinstance(content["parts"], list):
        more = {key: value for key, value in content.items() if key != "content_type"}
        return [{"type": kind, **more}] if more else ""
    parts = content["parts"]
    if len(parts) <= 1 and all(isinstance(part, str) for part in parts):
        return "".join(parts)
    return [_part(part) for part in parts]


def _part(part: Json) -> Json:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, dict) and "content_type" in part and "type" not in part:
        return {
            "type": part["content_type"],
            **{k: v for k, v in part.items() if k != "content_type"},
        }
    return part
