"""Our own JSONL: every event of a store, or of some sessions, out and in again.

Invariants: a whole store that comes into an empty one keeps everything (positions, salts, times,
append boundaries, keys), so both have the same Merkle root and the same state at every version;
anything else comes in as new facts, whose occurred_at is their original time; an import is one
transaction: all of the file or nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ..engine.encoder import Encoder
from ..engine.requests import Part
from ..errors import EventStoreError, InvalidEvent
from ..ids import SYSTEM
from ..limits import MIB
from ..log.base import NO_STREAM, Append, Stage, frames_between, tail_of
from ..store import EventStore
from .intake import Imported, Progress, check_writable
from .lines import Line, Numbered, content_of, event_of, frames_of, read_appends, salt_of, written
from .sources import repeatable
from .survey import Survey

STAGE_EVENTS = 5_000
"""Events that are planned together inside the transaction."""

STAGE_BYTES = 4 * MIB
"""Or so many stored bytes of them."""


def export_events(store: EventStore, sessions: Sequence[str] | None = None) -> Iterator[bytes]:
    """Iterate over every event as a line of JSON, in the order of the log; None: all sessions.

    The lines are those of one moment, however long it takes to read them. What a session builds
    on (its parent, what was merged into it) is not added by itself. Raises SessionNotFound.
    """
    store.flush()
    size = store.log.size()
    if sessions is None:
        return written(store.log, frames_between(store.log, stop=size))
    names = dict.fromkeys(sessions)
    for name in names:
        tail_of(store.log, name)
    return written(store.log, frames_of(store.log, names, size))


def import_events(
    store: EventStore, lines: Iterable[bytes], *, progress: Progress | None = None
) -> Imported:
    """Import lines that export_events() made; they are read twice before anybody sees a fact.

    A whole store into an empty one: everything is carried as it was. Else the sessions are added
    as new facts. Raises InvalidEvent with the line's number, SessionExists, KeyReused and
    StoreUnavailable; then nothing was written. Other writers wait while the file is written.
    """
    check_writable(store)
    engine = store.engine
    with repeatable(lines) as again:
        survey = Survey(store.log)
        for append in read_appends(again):
            survey.take(append)
        if not survey.size:
            raise InvalidEvent("the file holds no event")

        def work(stage: Stage) -> bool:
            survey.check_free()
            carried = survey.whole and store.log.size() == 0
            for batch in _batches(again, engine.encoder, carried=carried):
                _write(stage, batch, engine.now())
                if progress:
                    progress(sum(draft.messages for each in batch for draft in each.drafts))
            return carried

        return survey.found(carried=engine.writer.transaction(work))


def _write(stage: Stage, batch: Sequence[Append], now: int) -> None:
    for outcome in stage(batch, now):
        if isinstance(outcome, EventStoreError):
            raise outcome


def _batches(lines: Iterable[bytes], encoder: Encoder, *, carried: bool) -> Iterator[list[Append]]:
    """Iterate over the appends of a file, as many together as are planned together."""
    keys: dict[str, int] = {}
    batch: list[Append] = []
    events = size = 0
    for whole in read_appends(lines):
        part = [each for each in whole if carried or each[1].session != SYSTEM]
        if not part:
            continue
        batch.append(_append(part, encoder, keys, carried=carried))
        events += len(part)
        size += sum(len(made.bodies) for made in batch[-1].drafts)
        if events >= STAGE_EVENTS or size >= STAGE_BYTES:
            yield batch
            batch, events, size = [], 0, 0
    if batch:
        yield batch


def _append(
    part: list[Numbered], encoder: Encoder, keys: dict[str, int], *, carried: bool
) -> Append:
    number, first = part[0]
    streams = [list(lines) for _, lines in groupby(part, key=lambda each: each[1].session)]
    parts = [_part(each, carried=carried) for each in streams]
    drafts, expected, _ = encoder.drafted(parts, keys)
    return Append(
        drafts=drafts,
        expected=expected,
        actor=first.actor,
        correlation_id=first.correlation_id,
        causation_id=first.causation_id,
        key=first.key,
        content=content_of(number, first),
        recorded_at=first.recorded_at if carried else None,
    )


def _part(stream: list[Numbered], *, carried: bool) -> Part:
    _, first = stream[0]
    return Part(
        first.session,
        [event_of(*each) for each in stream],
        first.version - 1 if first.version else NO_STREAM,
        [_time(line, carried=carried) for _, line in stream],
        b"".join(salt_of(*each) for each in stream),
    )


def _time(line: Line, *, carried: bool) -> int | None:
    """Return an event's own time; for a new fact that is at least when it was recorded first."""
    return line.recorded_at if line.occurred_at is None and not carried else line.occurred_at
