"""What the commands that depend on state decide: which lines go, what a merge brings.

Invariants: a decision reads and returns a fact; it writes nothing. Everything it found out (the
very lines, the values, the tokens) stands in the fact, so that replay decides nothing again.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from . import events as ev
from .errors import InvalidEvent, MergeConflict, SessionNotFound
from .events import Span
from .header import SessionHeader
from .ids import parse_message_id
from .lineage import Headers, checked_version, fork_of
from .log.base import Log
from .messages import Json, calls_answered, calls_made
from .patch import assigned, changes, conflicts
from .spans import cut, index_of, joined, length, minus
from .transcript import Transcript, tokens_of

STRATEGIES = ("append", "adopt", "interleave", "squash")
CONFLICT_RULES = ("error", "ours", "theirs")


# -- finding messages ------------------------------------------------------------------


def find_line(log: Log, header: SessionHeader, message: str) -> tuple[Span, int]:
    """Return (span of one line, version in its stream) of a visible message, by its id.

    An id of the form `session#version` is found at once; one given by the caller is looked for
    from the newest message back.
    """
    made = parse_message_id(message)
    if made is not None and (line := _made_line(log, header, *made)) is not None:
        return line, made[1]
    lines = list(Transcript(log, header.spans).lines(0, header.messages))
    for span, recorded, found in reversed(lines):
        if found.id == message:
            return span, recorded.version
    raise InvalidEvent(f"session {header.session!r} shows no message {message!r}")


def _made_line(log: Log, header: SessionHeader, session: str, version: int) -> Span | None:
    tail = log.tail(session)
    if tail is None or version > tail.version:
        return None
    frame = log.read_stream(session, version, frames_max=1)[0]
    index = version - frame.version
    number = frame.message_number(index)
    message, note = (
        Span(session, number, number + 1),
        Span(session, version, version + 1, note=True),
    )
    for line in (message, note):
        is_message = frame.message_number(index + 1) > number
        if line.note != is_message and minus([line], header.spans) == []:
            return line
    return None


def version_at(log: Log, header: SessionHeader, at: int | str) -> int:
    """Return the version that `at` (a version or a message id) means in this session."""
    if not isinstance(at, str):
        return checked_version(log, header.session, at)
    span, version = find_line(log, header, at)
    if span.session != header.session:
        raise InvalidEvent(f"message {at!r} is in session {span.session!r}; name that session")
    return version


# -- prune and summarise ---------------------------------------------------------------


def prune(
    log: Log,
    header: SessionHeader,
    keep_last: int | None,
    messages: Sequence[str] | None,
    before: int | None,
    reason: str | None,
) -> ev.MessagesPruned:
    """Decide which lines to hide; exactly one criterion is given. `before` in ns.

    A tool call and its results stay or go together: a criterion that keeps a result keeps its
    call, one that names a part of them hides all.
    """
    if sum(each is not None for each in (keep_last, messages, before)) != 1:
        raise InvalidEvent("prune takes exactly one of keep_last, messages and before")
    if messages is not None:
        spans = _with_their_tools(log, header, [find_line(log, header, m)[0] for m in messages])
    else:
        first = _first_kept(log, header, keep_last, before)
        spans = cut(header.spans, 0, first)
    return ev.MessagesPruned(spans, length(spans), tokens_of(log, spans), reason)


def _first_kept(log: Log, header: SessionHeader, keep_last: int | None, before: int | None) -> int:
    if before is not None:
        first = sum(_older(log, span, before) for span in header.spans)
    else:
        if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 0:
            raise InvalidEvent(f"keep_last must be a whole number from 0 on, not {keep_last!r}")
        first = max(header.messages - keep_last, 0)
    return _whole_groups(Transcript(log, header.spans), first)


def _older(log: Log, span: Span, before: int) -> int:
    """Return how many lines of a span were recorded before that time, by bisection."""

    def recorded_at(place: int) -> int:
        version = place if span.note else log.locate(span.session, place)
        return log.read_stream(span.session, version, frames_max=1)[0].recorded_at

    return bisect_left(range(span.start, span.stop), before, key=recorded_at)


def _whole_groups(lines: Transcript, first: int) -> int:
    """Move the first kept line back until no kept result lacks its call."""
    missing: set[str] = set()
    for message in reversed(lines[first:]):
        missing = (missing | calls_answered(message.fields)) - calls_made(message.fields)
    back = first
    while missing and back > 0:
        back -= 1
        fields = lines[back].fields
        missing = (missing | calls_answered(fields)) - calls_made(fields)
    return first if missing else back


def _with_their_tools(log: Log, header: SessionHeader, chosen: Sequence[Span]) -> list[Span]:
    """Return the chosen lines and those that share a tool call with one of them."""
    lines = Transcript(log, header.spans)
    wanted = set(chosen)
    groups: dict[str, set[Span]] = {}
    for span, _, message in lines.lines(0, len(lines)):
        for call in calls_made(message.fields) | calls_answered(message.fields):
            groups.setdefault(call, set()).add(span)
    before = 0
    while before != len(wanted):
        before = len(wanted)
        for group in groups.values():
            if group & wanted:
                wanted |= group
    return joined(sorted(wanted, key=lambda span: (span.session, span.note, span.start)))


def summarize(
    log: Log,
    headers: Headers,
    header: SessionHeader,
    summary: dict[str, Json],
    tokens: int,
    upto: int | str,
) -> ev.HistorySummarized:
    """Decide which lines the summary stands for: all shown up to a version or message id."""
    if isinstance(upto, str):
        line, _ = find_line(log, header, upto)
        covered = cut(header.spans, 0, index_of(header.spans, line) + 1)
    else:
        then = headers.at(header.session, checked_version(log, header.session, upto))
        covered = minus(header.spans, minus(header.spans, then.spans))
    covered = cut(header.spans, 0, _results_too(Transcript(log, header.spans), length(covered)))
    if not covered:
        raise InvalidEvent(f"session {header.session!r} shows no message up to {upto!r}")
    count = length(covered)
    return ev.HistorySummarized(summary, covered, count, tokens_of(log, covered), tokens)


def _results_too(lines: Transcript, stop: int) -> int:
    """Move the end of the covered lines on until no covered call lacks its results."""
    open_calls: set[str] = set()
    for message in lines[:stop]:
        open_calls = (open_calls | calls_made(message.fields)) - calls_answered(message.fields)
    end = stop
    for _, _, message in lines.lines(stop, len(lines)) if open_calls else ():
        open_calls -= calls_answered(message.fields)
        end += 1
        if not open_calls:
            return end
    return stop


# -- merge -----------------------------------------------------------------------------


def merge(
    log: Log,
    headers: Headers,
    source: SessionHeader,
    into: SessionHeader,
    strategy: str,
    on_conflict: str,
    summary: dict[str, Json] | None,
    summary_tokens: int,
) -> ev.BranchMerged:
    """Decide what a merge brings, hides and changes; raises MergeConflict."""
    theirs_then, ours_then, base = _bases(log, headers, source, into)
    new = minus(minus(source.spans, theirs_then.spans), into.spans)
    own = minus(into.spans, ours_then.spans)
    hidden: list[Span] = []
    brought = new
    if strategy == "adopt":
        hidden = [span for span in own if span.session == into.session]
    elif strategy == "interleave":
        hidden, brought = own, _woven(log, own, new)
    elif strategy == "squash":
        brought = []
    metadata, context = _joined_values(source, theirs_then, into, ours_then, on_conflict)
    tokens = tokens_of(log, brought) - tokens_of(log, hidden) + summary_tokens
    return ev.BranchMerged(
        source=source.session,
        into=into.session,
        source_version=source.version,
        into_version=into.version + 1,
        strategy=strategy,
        base=base,
        on_conflict=on_conflict,
        brought=joined(brought),
        hidden=hidden,
        metadata=metadata,
        context=context,
        tokens=tokens,
        summary=summary,
        summary_tokens=summary_tokens,
    )


def _bases(
    log: Log, headers: Headers, source: SessionHeader, into: SessionHeader
) -> tuple[SessionHeader, SessionHeader, tuple[int | None, int | None]]:
    """Return both sides at the last merge between them, else at their fork, else empty."""
    point = into.merges.get(source.session)
    if point is not None:
        theirs = headers.at(source.session, point.their_version)
        ours = headers.at(point.session, point.version)
        return theirs, ours, (point.their_version, point.version)
    fork = _common_ancestor(log, source, into)
    if fork is None:
        return SessionHeader(), SessionHeader(), (None, None)
    shared = headers.at(*fork)
    return shared, shared, (fork[1], fork[1])


def _common_ancestor(
    log: Log, source: SessionHeader, into: SessionHeader
) -> tuple[str, int] | None:
    """Return the newest (session, version) that both descend from."""
    seen = dict(_ancestry(log, source))
    for session, version in _ancestry(log, into):
        if session in seen:
            return session, min(version, seen[session])
    return None


def _ancestry(log: Log, header: SessionHeader) -> list[tuple[str, int]]:
    found = [(header.session, header.version)]
    while (fork := fork_of(log, found[-1][0])) is not None:
        found.append(fork)
    return found


def _joined_values(
    source: SessionHeader,
    theirs_then: SessionHeader,
    into: SessionHeader,
    ours_then: SessionHeader,
    on_conflict: str,
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return the patches of metadata and context: what the source changed, conflicts settled."""
    paths: list[str] = []
    patches = []
    for field in ("metadata", "context"):
        theirs = changes(getattr(theirs_then, field), getattr(source, field))
        ours = changes(getattr(ours_then, field), getattr(into, field))
        clashes = conflicts(ours, theirs)
        paths += [f"{field}.{key}" for key in clashes]
        if on_conflict != "theirs":
            theirs = {key: value for key, value in theirs.items() if key not in clashes}
        patches.append(_effective(getattr(into, field), theirs))
    if paths and on_conflict == "error":
        raise MergeConflict(sorted(paths))
    return patches[0], patches[1]


def _effective(values: Mapping[str, Json], change: dict[str, Json]) -> dict[str, Json]:
    """Return the part of a change that changes anything."""
    after = assigned(values, change)
    return {key: value for key, value in change.items() if values.get(key) != after.get(key)}


def _woven(log: Log, ours: Sequence[Span], theirs: Sequence[Span]) -> list[Span]:
    """Return the lines of both sides in the order they were recorded."""
    lines = [
        (recorded.position, span)
        for spans in (ours, theirs)
        for span, recorded, _ in Transcript(log, spans).lines(0, length(spans))
    ]
    return joined(span for _, span in sorted(lines, key=lambda line: line[0]))


def undo(log: Log, header: SessionHeader) -> ev.SessionRewound:
    """Decide the version before the last append; raises InvalidEvent where there is none."""
    tail = log.tail(header.session)
    if tail is None:
        raise SessionNotFound(header.session)
    frame = log.read_stream(header.session, tail.version, reverse=True, frames_max=1)[0]
    if frame.version == 0:
        raise InvalidEvent(f"session {header.session!r} has nothing to undo")
    return ev.SessionRewound(frame.version - 1)
