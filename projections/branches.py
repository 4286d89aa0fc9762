"""Branch trees: a root session, the branches that came of it, and the merges between them.

Invariants: a tree shows one moment, statuses and counts included; any member finds the whole
tree; nodes and merges stand in the order they were made; a chain of parents that comes back to
itself can't be written, and one that is read raises Corruption.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from datetime import datetime
from itertools import takewhile
from typing import Any, ClassVar

import msgspec

from eventstore import Corruption, EventStore, Recorded, SessionNotFound
from eventstore import events as ev
from eventstore.engine.reading import version_at
from eventstore.errors import counted
from eventstore.log.base import Log, fact_at, facts_of, tail_of
from eventstore.log.format import TYPE_CODES
from eventstore.messages import Json
from eventstore.state.header import SessionHeader
from eventstore.state.lineage import fork_of

from .moment import missing, moment_position
from .projection import Projection

_MERGED = TYPE_CODES[ev.BranchMerged]


class Merge(msgspec.Struct, frozen=True, order=True):
    """An edge: `source` as of `source_version` came into `into`, whose version `into_version`.

    `position` is that of the fact in `into`.
    """

    position: int
    source: str
    source_version: int
    into: str
    into_version: int
    strategy: str


class BranchRow(msgspec.Struct):
    """What is kept of a session's place in its tree.

    `merges` are those it had a part in; a root's `members` counts the rows of its tree.
    """

    session: str
    position: int
    created_at: int
    actor: str | None = None
    parent: str | None = None
    at_version: int | None = None
    name: str | None = None
    description: str | None = None
    merges: list[Merge] = []
    members: int = 0


class Node(msgspec.Struct, frozen=True):
    """A session in its tree: `depth` 0 for the root, `created_at` in ns, visible `messages`."""

    session: str
    parent: str | None
    at_version: int | None
    name: str | None
    description: str | None
    actor: str | None
    created_at: int
    depth: int
    status: str
    messages: int


class BranchTree:
    """Nodes by session id in the order they were made, the root first; and `merges`."""

    def __init__(self, nodes: Iterable[Node], merges: Iterable[Merge] = ()) -> None:
        self.nodes = {node.session: node for node in nodes}
        self.merges = list(merges)
        self._children: dict[str, list[str]] = {session: [] for session in self.nodes}
        for node in self.nodes.values():
            if node.parent is not None:
                self._children[node.parent].append(node.session)

    @classmethod
    def of(
        cls,
        store: EventStore,
        session: str | None = None,
        *,
        at_position: int | None = None,
        at_time: datetime | int | None = None,
    ) -> "BranchTree":
        """Return the tree that a session is in, now or at a moment; without one, all trees.

        Raises SessionNotFound (also where the session did not exist yet) and InvalidEvent.
        """
        store.flush()
        last = moment_position(store, at_position, at_time)
        root = None if session is None else root_session(store.log, session)
        rows = _rows_on_demand(store, root, last)
        if session is not None and session not in {row.session for row in rows}:
            raise missing(store, session)
        return tree_of(store, rows, last)

    @property
    def roots(self) -> list[str]:
        """The sessions that are nobody's branch: one, unless the whole store was asked for."""
        return [node.session for node in self.nodes.values() if node.parent is None]

    def path(self, session: str) -> list[str]:
        """Return the ids from the root to a node, both included. Raises SessionNotFound."""
        path = [session]
        while (parent := self._node(path[-1]).parent) is not None:
            path.append(parent)
        return path[::-1]

    def children(self, session: str) -> list[str]:
        """Return the ids of a node's own branches, oldest first. Raises SessionNotFound."""
        return list(self._children[self._node(session).session])

    def depth(self, session: str) -> int:
        """Return how many forks a node is from its root. Raises SessionNotFound."""
        return self._node(session).depth

    def to_dict(self) -> dict[str, Json]:
        """Return nodes and merges as plain JSON."""
        return {
            "roots": self.roots,
            "nodes": [msgspec.to_builtins(node) for node in self.nodes.values()],
            "merges": [msgspec.to_builtins(merge) for merge in self.merges],
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BranchTree):
            return NotImplemented
        return list(self.nodes.items()) == list(other.nodes.items()) and self.merges == other.merges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<BranchTree of {', '.join(map(repr, self.roots))}, sessions={len(self.nodes)}>"

    def __str__(self) -> str:
        return "\n".join(line for root in self.roots for line in self._drawn(root, "", ""))

    def _node(self, session: str) -> Node:
        if session not in self.nodes:
            raise SessionNotFound(session)
        return self.nodes[session]

    def _drawn(self, session: str, lead: str, indent: str) -> Iterator[str]:
        yield lead + self._label(self.nodes[session])
        children = self._children[session]
        for child in children:
            last = child == children[-1]
            fork, below = ("└── ", "    ") if last else ("├── ", "│   ")
            yield from self._drawn(child, indent + fork, indent + below)

    def _label(self, node: Node) -> str:
        parts = [counted(node.messages, "message")]
        if node.at_version is not None:
            parts.insert(0, f"from version {node.at_version}")
        if node.status != "active":
            parts.append(node.status)
        parts += [
            f"merged into {merge.into}@{merge.into_version} ({merge.strategy})"
            for merge in self.merges
            if merge.source == node.session
        ]
        name = f" {node.name!r}" if node.name else ""
        return f"{node.session}{name} · {', '.join(parts)}"


class BranchesProjection(Projection[MutableMapping[str, BranchRow]]):
    """The recipe of trees: rows by `root NUL session`, so that a tree's rows stand together."""

    name: ClassVar[str] = "branches"
    types: ClassVar[frozenset[str] | None] = frozenset(
        kind.__name__ for kind in (ev.SessionCreated, ev.BranchCreated, ev.BranchMerged)
    )
    keyed: ClassVar[bool] = True
    row_type: ClassVar[Any] = BranchRow
    about_erased: ClassVar[bool] = True

    def __init__(self, log: Log) -> None:
        self._log = log

    def initial(self) -> MutableMapping[str, BranchRow]:
        """Return no trees."""
        return {}

    def evolve(
        self, state: MutableMapping[str, BranchRow], recorded: Recorded
    ) -> MutableMapping[str, BranchRow]:
        """Add a session, or a merge to a session's row."""
        root = root_session(self._log, recorded.session)
        key, event = tree_prefix(root) + recorded.session, recorded.structure
        if recorded.type_code == _MERGED:
            if isinstance(event, ev.BranchMerged):  # else the other half tells of it
                row = state[key]
                row.merges = [*row.merges, _merge(self._log, event)]
                state[key] = row
            return state
        state[key] = _row(recorded)
        first = state[tree_prefix(root) + root]
        first.members += 1
        state[tree_prefix(root) + root] = first
        return state


def tree_prefix(root: str) -> str:
    """Return what the keys of a tree's rows begin with; no session id holds a NUL."""
    return f"{root}\x00"


def root_session(log: Log, session: str) -> str:
    """Return the root of the tree that a session is in. Raises SessionNotFound."""
    tail_of(log, session)
    seen = {session}
    while (fork := fork_of(log, session)) is not None:
        session = fork[0]
        if session in seen:
            raise Corruption(-1, f"session {session!r} is its own ancestor")
        seen.add(session)
    return session


def tree_of(store: EventStore, rows: Iterable[BranchRow], last: int) -> BranchTree:
    """Return the tree of these rows as it is at position `last`."""
    ordered = sorted(rows, key=lambda row: row.position)
    nodes = [_node(row, _header_at(store, row.session, last)) for row in ordered]
    merges = sorted({merge for row in ordered for merge in row.merges if merge.position <= last})
    return BranchTree(nodes, merges)


def _node(row: BranchRow, header: SessionHeader) -> Node:
    return Node(
        session=row.session,
        parent=row.parent,
        at_version=row.at_version,
        name=row.name,
        description=row.description,
        actor=row.actor,
        created_at=row.created_at,
        depth=header.depth,
        status=header.status,
        messages=header.messages,
    )


def _header_at(store: EventStore, session: str, last: int) -> SessionHeader:
    """Return a session's header at a position: the newest one where it is no newer."""
    header = store.headers.now(session)
    if header.position <= last:
        return header
    return store.headers.at(session, version_at(store.log, session, last))


def _row(recorded: Recorded) -> BranchRow:
    row = BranchRow(recorded.session, recorded.position, recorded.recorded_at, recorded.actor)
    event = recorded.structure
    if isinstance(event, ev.BranchCreated):
        row.parent, row.at_version = event.parent, event.at_version
        row.name, row.description = event.name, event.description
    return row


def _merge(log: Log, event: ev.BranchMerged) -> Merge:
    """Return the edge of a merge: the same from the fact in either stream."""
    position = fact_at(log, event.into, event.into_version).position
    return Merge(
        position, event.source, event.source_version, event.into, event.into_version, event.strategy
    )


# -- a tree on demand: first events of all streams, then the merges of its members ------------


def _rows_on_demand(store: EventStore, root: str | None, last: int) -> list[BranchRow]:
    """Return the rows that folding the log up to `last` gives, without reading all of it."""
    firsts = _firsts(store, last)
    members = sorted(_members(firsts, root), key=lambda recorded: recorded.position)
    projection = BranchesProjection(store.log)
    state = projection.initial()
    for recorded in members:
        state = projection.evolve(state, recorded)
    for recorded in members:
        for merged in _merges_of(store.log, recorded.session, last):
            state = projection.evolve(state, merged)
    return list(state.values())


def _firsts(store: EventStore, last: int) -> dict[str, Recorded]:
    """Return the event that started each stream."""
    found = {}
    for session in store.sessions():
        first = fact_at(store.log, session, 0)
        if first.position <= last:
            found[session] = first
    return found


def _members(firsts: dict[str, Recorded], root: str | None) -> list[Recorded]:
    if root is None:
        return list(firsts.values())
    children: dict[str, list[str]] = {}
    for session, first in firsts.items():
        event = first.structure
        if isinstance(event, ev.BranchCreated):
            children.setdefault(event.parent, []).append(session)
    found = [root] if root in firsts else []
    for session in found:
        found += children.get(session, ())
    return [firsts[session] for session in found]


def _merges_of(log: Log, session: str, last: int) -> Iterator[Recorded]:
    merges = facts_of(log, session, 0, ev.BranchMerged)
    return takewhile(lambda merged: merged.position <= last, merges)
