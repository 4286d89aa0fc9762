"""The visible list of a session as runs of lines, so that it costs runs and not messages.

Invariants: no line is in a list twice; order is the order of showing; every function is pure
and works in the number of spans; a message's number never changes, so a span stays true for
ever and can be shared by branches.
"""

from collections.abc import Iterable, Sequence

from .events import Span


def length(spans: Iterable[Span]) -> int:
    """Return how many lines the spans show."""
    return sum(span.stop - span.start for span in spans)


def extended(spans: list[Span], session: str, start: int, stop: int) -> None:
    """Add messages `start..stop` of a stream at the end of the list, in place."""
    last = spans[-1] if spans else None
    if last is not None and last.session == session and last.stop == start and not last.note:
        spans[-1] = Span(session, last.start, stop)
    else:
        spans.append(Span(session, start, stop))


def minus(spans: Iterable[Span], hidden: Iterable[Span]) -> list[Span]:
    """Return the spans without the hidden lines, order kept."""
    holes: dict[tuple[str, bool], list[tuple[int, int]]] = {}
    for span in hidden:
        holes.setdefault((span.session, span.note), []).append((span.start, span.stop))
    for each in holes.values():
        each.sort()
    kept: list[Span] = []
    for span in spans:
        kept += _pieces(span, holes.get((span.session, span.note), ()))
    return kept


def _pieces(span: Span, holes: Sequence[tuple[int, int]]) -> list[Span]:
    """Return what is left of one span; the holes are sorted."""
    if not holes:
        return [span]
    pieces, start = [], span.start
    for low, high in holes:
        if high <= start:
            continue
        if low >= span.stop:
            break
        if low > start:
            pieces.append(Span(span.session, start, low, span.note))
        start = max(start, high)
    if start < span.stop:
        pieces.append(Span(span.session, start, span.stop, span.note))
    return pieces


def replaced(spans: Sequence[Span], covered: Sequence[Span], note: Span) -> list[Span]:
    """Return the spans with `note` in place of the first covered line and the others gone."""
    before: list[Span] = []
    for index, span in enumerate(spans):
        left = minus([span], covered)
        if left != [span]:
            head = [left[0]] if left and left[0].start == span.start else []
            rest = minus(spans[index:], covered)[len(head) :]
            return [*before, *head, note, *rest]
        before.append(span)
    return [*before, note]


def cut(spans: Sequence[Span], start: int, stop: int) -> list[Span]:
    """Return the lines `start <= index < stop` of the list, as spans."""
    taken, at = [], 0
    for span in spans:
        low, high = max(start - at, 0), min(stop - at, span.stop - span.start)
        if low < high:
            taken.append(Span(span.session, span.start + low, span.start + high, span.note))
        at += span.stop - span.start
        if at >= stop:
            break
    return taken


def index_of(spans: Iterable[Span], line: Span) -> int:
    """Return the place of a one-line span in the list; it must be there."""
    at = 0
    for span in spans:
        same = (span.session, span.note) == (line.session, line.note)
        if same and span.start <= line.start < span.stop:
            return at + line.start - span.start
        at += span.stop - span.start
    raise ValueError(f"{line} is not in the list")


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return the same lines in the fewest spans."""
    made: list[Span] = []
    for span in spans:
        if span.note:
            made.append(span)
        else:
            extended(made, span.session, span.start, span.stop)
    return made
