"""What the commands that depend on state decide: which lines go, what a merge brings.

Invariants: a decision reads and returns a fact; it writes nothing. Everything it found out (the
very lines, the values, the tokens) stands in the fact, so that replay decides nothing again.
"""

from bisect import bisect_left
from collections.abc import Sequence

from .. import events as ev
from ..errors import InvalidEvent, MergeConflict, brief
from ..events import Span
from ..ids import message_id, parse_message_id
from ..log.base import Log, fact_at, frames_at, tail_of
from ..messages import Json, calls_answered, calls_made
from ..patch import assigned, changes, conflicts
from ..spans import cut, index_of, joined, length, minus
from .header import SessionHeader
from .lineage import Headers, checked_version, fork_of
from .transcript import Transcript, tokens_of

STRATEGIES = ("append", "adopt", "interleave", "squash")
LINES_PAGE = 256
"""Lines that a search for a message takes at a time."""

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
    lines = Transcript(log, header.spans)
    for stop in range(len(lines), 0, -LINES_PAGE):
        for span, recorded, found in reversed([*lines.lines(max(stop - LINES_PAGE, 0), stop)]):
            if found.id == message:
                return span, recorded.version
    raise InvalidEvent(f"session {header.session!r} shows no message {message!r}")


def _made_line(log: Log, header: SessionHeader, session: str, version: int) -> Span | None:
    tail = log.tail(session)
    if tail is None or version > tail.version:
        return None
    frame = frames_at(log, session, version, frames_max=1)[0]
    index = version - frame.version
    number = frame.message_number(index)
    message, note = (
        Span(session, number, number + 1),
        Span(session, version, version + 1, note=True),
    )
    line = message if frame.message_number(index + 1) > number else note
    if minus([line], header.spans):
        return None
    found = Transcript(log, [line])[0]
    return line if found.id == message_id(session, version) else None  # else it has its own id


def version_named(log: Log, headers: Headers, session: str, at: int | str) -> int:
    """Return the version that `at` (a version or a message id) means in this session."""
    if not isinstance(at, str):
        return checked_version(log, session, at)
    span, version = find_line(log, headers.now(session), at)
    if span.session != session:
        raise InvalidEvent(f"message {at!r} is in session {span.session!r}; name that session")
    return version


# -- prune and summarise ---------------------------------------------------------------


def prune(
    log: Log,
    header: SessionHeader,
    keep_last: int | None,
    messages: Sequence[str] | None,
    before: int | None,
    lines: Sequence[Span] | None,
    reason: str | None,
) -> ev.MessagesPruned:
    """Decide which lines to hide; exactly one criterion is given. `before` in ns.

    A tool call and its results stay or go together: a criterion that keeps a result keeps its
    call, one that names a part of them hides all.
    """
    if sum(each is not None for each in (keep_last, messages, before, lines)) != 1:
        raise InvalidEvent("prune takes exactly one of keep_last, messages, before and lines")
    if messages is not None:
        spans = _with_their_tools(log, header, {find_line(log, header, m)[0] for m in messages})
    elif lines is not None:
        spans = _with_their_tools(log, header, _each(_exactly(header, lines)))
    elif before is not None:
        spans = _older_lines(log, header, before)
    else:
        spans = cut(header.spans, 0, _first_kept(log, header, keep_last))
    return ev.MessagesPruned(spans, length(spans), tokens_of(log, spans), reason)


def clear(log: Log, header: SessionHeader) -> ev.MessagesPruned:
    """Decide to hide all messages that are shown, and no summary."""
    spans = [span for span in header.spans if not span.note]
    return ev.MessagesPruned(spans, length(spans), tokens_of(log, spans), "cleared")


def _each(spans: Sequence[Span]) -> set[Span]:
    """Return the lines of the spans, each as a span of its own."""
    return {
        Span(span.session, number, number + 1, span.note)
        for span in spans
        for number in range(span.start, span.stop)
    }


def _first_kept(log: Log, header: SessionHeader, keep_last: int | None) -> int:
    """Return the index of the first line kept: no result after it lacks its call."""
    if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 0:
        raise InvalidEvent(f"keep_last must be a whole number from 0 on, not {brief(keep_last)}")
    lines = Transcript(log, header.spans)
    first = index = max(header.messages - keep_last, 0)
    missing: set[str] = set()
    for message in reversed(lines[first:]):
        missing = (missing - calls_made(message.fields)) | calls_answered(message.fields)
    passed: set[str] = set()
    while missing and index > 0:
        index -= 1
        fields = lines[index].fields
        made = calls_made(fields)
        passed = (passed - made) | calls_answered(fields)
        if missing & made:
            first, missing, passed = index, (missing - made) | passed, set()
    return first


def _older_lines(log: Log, header: SessionHeader, before: int) -> list[Span]:
    """Return the lines recorded before that time, without those whose call or result is not."""
    older = [each for span in header.spans for each in _older(log, span, before)]
    kept = minus(header.spans, older)
    lines = list(Transcript(log, kept).lines(0, length(kept)))
    if any(calls_made(each.fields) or calls_answered(each.fields) for _, _, each in lines):
        kept = _with_their_tools(log, header, {line for line, _, _ in lines})
    return minus(header.spans, kept)


def _older(log: Log, span: Span, before: int) -> list[Span]:
    """Return the part of a span that was recorded before that time, by bisection."""

    def recorded_at(place: int) -> int:
        version = place if span.note else log.locate(span.session, place)
        return fact_at(log, span.session, version).recorded_at

    count = bisect_left(range(span.start, span.stop), before, key=recorded_at)
    return cut([span], 0, count)


def _with_their_tools(log: Log, header: SessionHeader, chosen: set[Span]) -> list[Span]:
    """Return the chosen lines and those that share a tool call with one of them."""
    groups = _tool_groups(Transcript(log, header.spans))
    wanted, before = set(chosen), -1
    while before != len(wanted):
        before = len(wanted)
        for group in groups:
            if not wanted.isdisjoint(group):
                wanted |= group
    return joined(sorted(wanted, key=lambda span: (span.session, span.note, span.start)))


def _tool_groups(lines: Transcript) -> list[set[Span]]:
    """Return each tool call with its results: those up to the next call of the same id."""
    groups: list[set[Span]] = []
    latest: dict[str, set[Span]] = {}
    for span, _, message in lines.lines(0, len(lines)):
        for call in calls_answered(message.fields) & latest.keys():
            latest[call].add(span)
        for call in calls_made(message.fields):
            latest[call] = {span}
            groups.append(latest[call])
    return groups


def summarize(
    log: Log,
    headers: Headers,
    header: SessionHeader,
    summary: dict[str, Json],
    tokens: int,
    upto: int | str | None,
    lines: Sequence[Span] | None = None,
) -> ev.HistorySummarized:
    """Decide which lines the summary stands for: all shown up to a version or id, or `lines`."""
    if (upto is None) == (lines is None):
        raise InvalidEvent("summarize takes exactly one of upto and lines")
    if lines is None:
        assert upto is not None
        covered = _shown_upto(log, headers, header, upto)
    else:
        covered = _exactly(header, lines)
    count = length(covered)
    return ev.HistorySummarized(summary, covered, count, tokens_of(log, covered), tokens)


def _shown_upto(log: Log, headers: Headers, header: SessionHeader, upto: int | str) -> list[Span]:
    stop = _covered(log, headers, header, upto)
    if not stop:
        raise InvalidEvent(f"session {header.session!r} shows no message up to {upto!r}")
    return cut(header.spans, 0, _results_too(Transcript(log, header.spans), stop))


def _exactly(header: SessionHeader, lines: Sequence[Span]) -> list[Span]:
    """Return these lines in the order of showing; all of them must be shown."""
    gone = length(minus(lines, header.spans))
    if gone or not length(lines):
        raise InvalidEvent(
            f"session {header.session!r} does not show {gone} of the {length(lines)} lines "
            "that were named; look again"
        )
    return minus(header.spans, minus(header.spans, lines))


def _covered(log: Log, headers: Headers, header: SessionHeader, upto: int | str) -> int:
    """Return how many lines there are up to that message, or the last shown at that version."""
    if isinstance(upto, str):
        return index_of(header.spans, find_line(log, header, upto)[0]) + 1
    then = headers.at(header.session, checked_version(log, header.session, upto))
    shown = minus(header.spans, minus(header.spans, then.spans))
    last = cut(shown, length(shown) - 1, length(shown))
    return index_of(header.spans, last[0]) + 1 if last else 0


def _results_too(lines: Transcript, stop: int) -> int:
    """Move the end of the covered lines on until no line after it is a covered call's result."""
    made: set[str] = set()
    for message in lines[:stop]:
        made |= calls_made(message.fields)
    passed: set[str] = set()
    for index in range(stop, len(lines)) if made else ():
        fields = lines[index].fields
        if made & calls_answered(fields):
            made, passed, stop = made | passed, set(), index + 1
            made |= calls_made(fields)
        else:
            passed |= calls_made(fields)
            made -= passed
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
        hidden = [span for span in own if span.session == into.session and not span.note]
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
) -> tuple[SessionHeader, SessionHeader, list[tuple[str, int]]]:
    """Return both sides at the last merge between them, else at their fork, else empty.

    Also their places: (session, version) of the source's side and of the target's.
    """
    point = into.merges.get(source.session)
    if point is not None:
        theirs = headers.at(point.their_session, point.their_version)
        ours = headers.at(point.session, point.version)
        places = (point.their_session, point.their_version), (point.session, point.version)
        return theirs, ours, [*places]
    fork = _common_ancestor(log, source, into)
    if fork is None:
        return SessionHeader(), SessionHeader(), []
    shared = headers.at(*fork)
    return shared, shared, [fork, fork]


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
        values = getattr(into, field)
        patches.append(changes(values, assigned(values, theirs)))
    if paths and on_conflict == "error":
        raise MergeConflict(sorted(paths))
    return patches[0], patches[1]


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
    newest = tail_of(log, header.session).version
    frame = frames_at(log, header.session, newest, reverse=True, frames_max=1)[0]
    if frame.version == 0:
        raise InvalidEvent(f"session {header.session!r} has nothing to undo")
    return ev.SessionRewound(frame.version - 1, header.held)
