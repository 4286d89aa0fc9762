"""The store as plain lists and dicts: what semantics.md says, done the slow and obvious way.

Invariants: a session is a list of full states, one per version, and no state is ever changed;
nothing here folds, pages, spans or caches; a command either answers with the receipt that the
store must give or raises the error of the tree that it must raise.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from eventstore import errors
from eventstore.log.base import ANY, NO_STREAM, Receipt

SECOND = 1_000_000_000
DEPTH_MAX = 10
GONE = object()


class Line(NamedTuple):
    """One visible message: where it was said, and how it is shown."""

    session: str
    version: int
    position: int
    time: int
    id: str
    fields: dict[str, Any]
    tokens: int
    note: bool = False
    """True for a summary, which may stand for lines that others said."""

    @property
    def place(self) -> tuple[str, int]:
        return self.session, self.version


@dataclass(frozen=True)
class State:
    """Everything that is to be known of a session at one version."""

    lines: tuple[Line, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    status: str = "active"
    expires_at: int | None = None
    parent: str | None = None
    depth: int = 0
    appended: int = 0
    tool_calls: int = 0
    errors: int = 0
    met: dict[str, tuple["State", "State"]] = field(default_factory=dict)
    """Other session -> (its state, our state) that a merge of it starts from."""
    gone: frozenset[tuple[str, int]] = frozenset()
    """Places of lines that it showed until they were redacted."""
    set_at: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Key of the context -> place of the fact that set it, where such a one was the last."""
    put_at: dict[tuple[str, ...], tuple[str, int]] = field(default_factory=dict)
    """Path of a leaf of the metadata -> place of the patch that put it there, in the same way."""

    @property
    def tokens(self) -> int:
        return sum(line.tokens for line in self.lines)

    def without(self, place: tuple[str, int]) -> "State":
        """Return the state as if that line had never been shown, or that value had been null."""
        met = {
            other: (theirs.without(place), ours.without(place))
            for other, (theirs, ours) in self.met.items()
        }
        left = tuple(line for line in self.lines if line.place != place)
        gone = self.gone | {place} if len(left) < len(self.lines) else self.gone
        kept = {key: value for key, value in self.context.items() if self.set_at.get(key) != place}
        metadata = self.metadata
        for path in [path for path, put in self.put_at.items() if put == place]:
            metadata = patch(metadata, nested(path, None))
        return replace(self, lines=left, met=met, gone=gone, context=kept, metadata=metadata)


@dataclass
class Session:
    """All states of a session, the first version of each append, and where it forked."""

    name: str
    states: list[State] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    fork: tuple[str, int] | None = None

    @property
    def now(self) -> State:
        return self.states[-1]

    @property
    def version(self) -> int:
        return len(self.states) - 1


class Model:
    """All sessions, the order of all events, and the keys that were used."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.sessions: dict[str, Session] = {}
        self.log: list[tuple[str, int, int]] = []
        self.keys: dict[str, tuple[object, Receipt]] = {}
        self.said: dict[tuple[str, int], Line] = {}
        self.redactions: dict[tuple[str, int], Receipt] = {}
        self.set: set[tuple[str, int]] = set()
        self.made_of: dict[tuple[str, int], set[tuple[str, int]]] = {}
        """Place of a summary -> places of all lines that went into it, one way or another."""

    # -- commands ------------------------------------------------------------------------

    def create(self, name, *, metadata=None, context=None, ttl=None, expected=ANY):
        if name in self.sessions:
            raise errors.SessionExists(name)
        if isinstance(expected, int):
            raise errors.VersionConflict(name, expected, None)
        values = {key: value for key, value in (context or {}).items() if value is not None}
        self.sessions[name] = Session(name)
        expires_at = None if ttl is None else self.clock() + ttl * SECOND
        first = State(metadata=patch({}, metadata or {}), context=values, expires_at=expires_at)
        return self._wrote(name, first)

    def append(self, name, messages, *, expected=ANY, key=None):
        content = ("append", name, repr(messages))
        if key in self.keys:
            return self._again(key, content)
        self._open(name)
        self._expect(name, expected)
        session, states = self.sessions[name], []
        at, time, version = len(self.log), self._time(), session.version
        state = session.now
        for index, fields in enumerate(messages, 1):
            given = fields.get("id") or f"{name}#{version + index}"
            place = (name, version + index, at + index - 1, time)
            line = self._say(Line(*place, given, fields, tokens_in(fields)))
            state = replace(state, lines=(*state.lines, line), appended=state.appended + 1)
            states.append(state)
        receipt = self._wrote(name, *states)
        if key is not None:
            self.keys[key] = content, receipt
        return receipt

    def branch(self, parent, name, *, at=None, expected=ANY):
        self._living(parent)
        state = self.sessions[parent].now
        if state.depth >= DEPTH_MAX:
            raise errors.DepthExceeded(state.depth + 1, DEPTH_MAX)
        version = self.sessions[parent].version if at is None else self._moment(parent, at)
        if name in self.sessions:
            raise errors.SessionExists(name)
        if isinstance(expected, int):
            raise errors.VersionConflict(name, expected, None)
        then = self.sessions[parent].states[version]
        self.sessions[name] = Session(name, fork=(parent, version))
        start = replace(then, status="active", parent=parent, depth=then.depth + 1)
        return self._wrote(name, start)

    def merge(self, source, *, into, strategy="append", on_conflict="error", summary=None):
        if source == into:
            raise errors.InvalidEvent("into itself")
        self._open(into)
        self._living(source)
        theirs, ours = self.sessions[source].now, self.sessions[into].now
        theirs_then, ours_then = self._base(source, into)
        values, clashes = {}, []
        for part in ("metadata", "context"):
            sides = [getattr(each, part) for each in (theirs, theirs_then, ours, ours_then)]
            values[part], paths = three_way(*sides, on_conflict)
            clashes += [f"{part}.{path}" for path in paths]
        if clashes and on_conflict == "error":
            raise errors.MergeConflict(sorted(clashes))
        known = places(ours.lines) | places(theirs_then.lines)
        new = [line for line in theirs.lines if line.place not in known]
        since = [line for line in ours.lines if line.place not in places(ours_then.lines)]
        lines = list(ours.lines)
        if strategy == "append":
            lines += new
        elif strategy == "adopt":
            said = {line.place for line in since if line.session == into and not line.note}
            lines = [line for line in lines if line.place not in said] + new
        elif strategy == "interleave":
            before = [line for line in lines if line.place not in places(since)]
            lines = before + sorted(since + new, key=lambda line: line.position)
        else:
            covers = {"session": source, "upto": self.sessions[source].version}
            news = [line for line in theirs.lines if line.place not in places(theirs_then.lines)]
            lines.append(self._note(into, summary, covers, news))
        now, then = values["context"], ours.context
        stays = {key for key in then if same(now.get(key, GONE), then[key])}
        set_at = {key: place for key, place in ours.set_at.items() if key in stays}
        now, then = values["metadata"], ours.metadata
        stays = {key for key in then if same(now.get(key, GONE), then[key])}
        put_at = {path: place for path, place in ours.put_at.items() if path[0] in stays}
        merged = replace(ours, lines=tuple(lines), set_at=set_at, put_at=put_at, **values)
        merged = replace(merged, met={**ours.met, source: (theirs, merged)})
        marked = replace(theirs, met={**theirs.met, into: (theirs, theirs)})
        receipt = self._wrote(into, merged)
        self._wrote(source, marked)
        return receipt

    def prune(self, name, *, keep_last=None, messages=None, before=None):
        self._living(name)
        lines = self.sessions[name].now.lines
        groups = tool_groups(lines)
        if keep_last is not None:
            first = max(len(lines) - keep_last, 0)
            while splits(groups, first):
                first -= 1
            gone = set(range(first))
        elif messages is not None:
            gone = {self._find(name, message) for message in messages}
            gone = closed(groups, gone)
        else:
            kept = {index for index, line in enumerate(lines) if line.time >= before}
            gone = set(range(len(lines))) - closed(groups, kept)
        left = tuple(line for index, line in enumerate(lines) if index not in gone)
        return self._wrote(name, replace(self.sessions[name].now, lines=left))

    def summarize(self, name, summary, *, upto):
        self._living(name)
        session, lines = self.sessions[name], self.sessions[name].now.lines
        if isinstance(upto, str):
            stop = self._find(name, upto) + 1
        else:
            then = places(session.states[self._moment(name, upto)].lines)
            stop = max((i + 1 for i, line in enumerate(lines) if line.place in then), default=0)
        if not stop:
            raise errors.InvalidEvent("nothing to cover")
        groups = tool_groups(lines)
        while splits(groups, stop):
            stop += 1
        covers = {"messages": stop, "tokens": sum(line.tokens for line in lines[:stop])}
        note = self._note(name, summary, covers, lines[:stop])
        return self._wrote(name, replace(session.now, lines=(note, *lines[stop:])))

    def redact(self, name, message, *, summaries=False):
        if name not in self.sessions:
            raise errors.SessionNotFound(name)
        place = self._place(name, message)
        if place not in self.said and place not in self.set:
            raise errors.InvalidEvent("nothing that was said")
        going = [] if place in self.redactions else [place]
        if summaries:
            going += self.quotes(place)
        if not going:
            return replace_receipt(self.redactions[place])
        for each in going:
            for session in self.sessions.values():
                session.states = [state.without(each) for state in session.states]
        streams = dict.fromkeys(stream for stream, _ in going)
        for stream in streams:
            gone = [each for each in going if each[0] == stream]
            receipt = streams[stream] = self._wrote(
                stream, *[self.sessions[stream].now] * len(gone)
            )
            self.redactions |= dict.fromkeys(gone, receipt)
        return streams[going[0][0]]

    def quotes(self, place: tuple[str, int]) -> list[tuple[str, int]]:
        """Return the summaries that a line went into and that are left, in the order made."""
        return [
            note
            for note, covered in self.made_of.items()
            if place in covered and note not in self.redactions
        ]

    def _place(self, name: str, message: str | int) -> tuple[str, int]:
        """Return where a message was said: by its place if it ever was one, else by its id."""
        state = self.sessions[name].now
        if not isinstance(message, str):
            return name, self._moment(name, message)
        stream, _, version = message.partition("#")
        place = stream, int(version or -1)
        if place in self.said and (stream == name or place in places(state.lines) | state.gone):
            return place
        return state.lines[self._find(name, message)].place

    def rewind(self, name, version):
        self._living(name)
        return self._wrote(name, self.sessions[name].states[self._moment(name, version)])

    def undo(self, name):
        self._living(name)
        last = self.sessions[name].starts[-1]
        if last == 0:
            raise errors.InvalidEvent("nothing to undo")
        return self._wrote(name, self.sessions[name].states[last - 1])

    def update_metadata(self, name, change, *, expected=ANY):
        self._living(name)
        self._expect(name, expected)
        now, place = self.sessions[name].now, self._sets(name)
        metadata = patch(now.metadata, change)
        put = now.put_at | dict.fromkeys(leaves(change), place)
        put_at = {path: put[path] for path in leaves(metadata) if path in put}
        return self._wrote(name, replace(now, metadata=metadata, put_at=put_at))

    def set_context(self, name, key, value):
        self._living(name)
        now = self.sessions[name].now
        values = {**now.context, key: value}
        if value is None:
            del values[key]
        set_at = {**now.set_at, key: self._sets(name)}
        return self._wrote(name, replace(now, context=values, set_at=set_at))

    def record_tool_call(self, name, _tool):
        self._living(name)
        self._sets(name)
        now = self.sessions[name].now
        return self._wrote(name, replace(now, tool_calls=now.tool_calls + 1))

    def record_error(self, name, _kind):
        self._living(name)
        self._sets(name)
        now = self.sessions[name].now
        return self._wrote(name, replace(now, errors=now.errors + 1))

    def record(self, name, _kind, _value):
        self._living(name)
        self._sets(name)
        return self._wrote(name, self.sessions[name].now)

    def close(self, name):
        return self._status(name, "closed")

    def reopen(self, name):
        return self._status(name, "active")

    def archive(self, name):
        return self._status(name, "archived")

    def delete(self, name):
        return self._status(name, "deleted")

    def extend_ttl(self, name, ttl):
        self._present(name)
        expires_at = None if ttl is None else self.clock() + ttl * SECOND
        return self._wrote(name, replace(self.sessions[name].now, expires_at=expires_at))

    # -- what was current when -----------------------------------------------------------

    def version_at_position(self, name: str, position: int) -> int:
        places = self.log[: position + 1]
        return max((version for other, version, _ in places if other == name), default=-1)

    def position_at(self, moment: int) -> int:
        return sum(time <= moment for _, _, time in self.log) - 1

    # -- how commands are decided --------------------------------------------------------

    def _present(self, name: str) -> None:
        if name not in self.sessions:
            raise errors.SessionNotFound(name)
        if self.sessions[name].now.status == "deleted":
            raise errors.SessionDeleted(name)

    def _living(self, name: str) -> None:
        self._present(name)
        expires_at = self.sessions[name].now.expires_at
        if expires_at is not None and self.clock() >= expires_at:
            raise errors.SessionExpired(name, expires_at)

    def _open(self, name: str) -> None:
        self._living(name)
        if self.sessions[name].now.status != "active":
            raise errors.SessionClosed(name, self.sessions[name].now.status)

    def _expect(self, name: str, expected: object) -> None:
        version = self.sessions[name].version
        if expected is NO_STREAM or (isinstance(expected, int) and expected != version):
            raise errors.VersionConflict(name, expected, version)

    def _moment(self, name: str, at: object) -> int:
        session = self.sessions[name]
        if isinstance(at, str):
            line = session.now.lines[self._find(name, at)]
            if line.session != name:
                raise errors.InvalidEvent("said elsewhere")
            return line.version
        if not 0 <= at <= session.version:
            raise errors.InvalidEvent("no such version")
        return at

    def _find(self, name: str, message: str) -> int:
        """Return the index of a visible message: by its place, else the newest of that id."""
        lines = self.sessions[name].now.lines
        for index, line in enumerate(lines):
            if message == f"{line.session}#{line.version}":
                return index
        found = [index for index, line in enumerate(lines) if line.id == message]
        if not found:
            raise errors.InvalidEvent("no such message")
        return found[-1]

    def _base(self, source: str, into: str) -> tuple[State, State]:
        """Return both sides at the last merge between them, else at the fork, else empty."""
        met = self.sessions[into].now.met.get(source)
        if met is not None:
            return met
        ours, theirs = self._ancestry(into), dict(self._ancestry(source))
        for name, version in ours:
            if name in theirs:
                shared = self.sessions[name].states[min(version, theirs[name])]
                return shared, shared
        return State(), State()

    def _ancestry(self, name: str) -> list[tuple[str, int]]:
        found = [(name, self.sessions[name].version)]
        while (fork := self.sessions[found[-1][0]].fork) is not None:
            found.append(fork)
        return found

    def _note(self, name: str, summary: str, covers: dict[str, Any], lines: Sequence[Line]) -> Line:
        version = self.sessions[name].version + 1
        fields = {"role": "system", "content": summary, "metadata": {"summary": covers}}
        place = (name, version, len(self.log), self._time())
        covered = [{line.place} | self.made_of.get(line.place, set()) for line in lines]
        self.made_of[name, version] = set().union(*covered)
        return self._say(Line(*place, f"{name}#{version}", fields, tokens_in(fields), note=True))

    def _say(self, line: Line) -> Line:
        self.said[line.place] = line
        return line

    def _sets(self, name: str) -> tuple[str, int]:
        """Note that what comes next in a session can be redacted; return its place."""
        place = name, self.sessions[name].version + 1
        self.set.add(place)
        return place

    def _status(self, name: str, status: str) -> Receipt:
        self._present(name)
        return self._wrote(name, replace(self.sessions[name].now, status=status))

    def _time(self) -> int:
        return max(self.clock(), self.log[-1][2] if self.log else 0)

    def _wrote(self, name: str, *states: State) -> Receipt:
        session, time = self.sessions[name], self._time()
        first = len(session.states)
        session.starts.append(first)
        for state in states:
            self.log.append((name, len(session.states), time))
            session.states.append(state)
        size = len(self.log)
        return Receipt(name, first, session.version, size - 1, time, size)

    def _again(self, key: str, content: object) -> Receipt:
        before, receipt = self.keys[key]
        places = {(receipt.session, v) for v in range(receipt.first_version, receipt.version + 1)}
        if before != content and not places & self.redactions.keys():
            raise errors.KeyReused(key)
        return replace_receipt(receipt)


def replace_receipt(receipt: Receipt) -> Receipt:
    """Return the receipt that the same command gets the second time."""
    fields = (receipt.session, receipt.first_version, receipt.version, receipt.position)
    return Receipt(*fields, receipt.recorded_at, receipt.tree_size, duplicate=True)


def tokens_in(fields: dict[str, Any]) -> int:
    """Return a quarter of the characters, rounded up."""
    return -(-len(fields.get("content") or "") // 4)


def places(lines) -> set[tuple[str, int]]:
    """Return where these lines were said."""
    return {line.place for line in lines}


def patch(values: dict[str, Any], change: Any) -> Any:
    """Apply a merge patch: RFC 7396, section 2, as its pseudocode has it."""
    if not isinstance(change, dict):
        return change
    made = dict(values) if isinstance(values, dict) else {}
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = patch(made.get(key), value)
    return made


def leaves(values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the paths of all values in an object that are no objects themselves."""
    found = []
    for key, value in values.items():
        inner = leaves(value) if isinstance(value, dict) else [()]
        found += [(key, *path) for path in inner]
    return found


def nested(path: tuple[str, ...], value: Any) -> Any:
    """Return the object that has a value at a path and nothing else."""
    for key in reversed(path):
        value = {key: value}
    return value


def three_way(theirs, theirs_then, ours, ours_then, rule):
    """Return our values with their changes, and the keys that both changed differently."""
    result, clashes = dict(ours), []
    for key in {*theirs, *theirs_then}:
        new = theirs.get(key, GONE)
        if same(new, theirs_then.get(key, GONE)):
            continue
        changed_too = not same(ours.get(key, GONE), ours_then.get(key, GONE))
        clash = changed_too and not same(ours.get(key, GONE), new)
        if clash:
            clashes.append(key)
        if not clash or rule == "theirs":
            result.pop(key, None)
            if new is not GONE:
                result[key] = new
    return result, clashes


def same(one: object, other: object) -> bool:
    """Return True where two JSON values are the same text: 1, 1.0 and true are three values."""
    if one is GONE or other is GONE:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def tool_groups(lines) -> list[set[int]]:
    """Return the indexes of each tool call and its results, which follow it."""
    groups: list[set[int]] = []
    owner: dict[str, set[int]] = {}
    for index, line in enumerate(lines):
        answered = line.fields.get("tool_call_id")
        if answered in owner:
            owner[answered].add(index)
        for call in line.fields.get("tool_calls") or ():
            owner[call["id"]] = {index}
            groups.append(owner[call["id"]])
    return groups


def splits(groups: list[set[int]], cut: int) -> bool:
    """Return True where a cut before that index parts a call from one of its results."""
    return any(min(group) < cut <= max(group) for group in groups)


def closed(groups: list[set[int]], chosen: set[int]) -> set[int]:
    """Return the chosen indexes and whatever shares a group with one of them."""
    size = -1
    while size != len(chosen):
        size = len(chosen)
        for group in groups:
            if group & chosen:
                chosen = chosen | group
    return chosen
