"""Erasing a session: decided here, done once and for all.

The order of an erasure: the fact that asks for it; then the payloads, a page of frames at a time;
then the key, which is what makes it final; then the fact that it is over. Invariants: each step
can be done again, so an erasure that was interrupted anywhere is completed by whoever opens the
store next; nothing but that last fact comes after the first one in the session's stream.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from .. import events as ev
from ..errors import InvalidEvent, KeyShredded
from ..ids import SYSTEM
from ..log.base import (
    Log,
    Receipt,
    fact_at,
    facts_of,
    frames_at,
    frames_between,
    key_of,
    receipt_again,
    tail_of,
)
from ..log.format import SESSION_NAME, TYPE_CODES
from ..log.recorded import Recorded
from ..log.shredding import Shred, stripped
from ..spans import length
from .quoting import Quoting
from .redaction import redacting, redaction_of, shred_of
from .requests import KNOWN, Ground, Options, Part, Request, Runner, request

PAGE_FRAMES = 512
"""Frames that lose their payloads in one transaction."""

REPEATED = "erased before, after this copy of the store was made"
"""Why a session is erased whose key the keyring has destroyed already."""

_ENDS = {TYPE_CODES[ev.EraseRequested], TYPE_CODES[ev.KeyShredded]}

Versions = list[int]

Dependent = tuple[str, int]
"""A session that shows lines of another, and how many."""


def erasure(
    session: str, reason: str, options: Options, *, cascade: bool, summaries: bool
) -> Request:
    """Return the request that erases a session, and goes on until its key is gone.

    With `summaries` also those that others made of it.
    """

    def known(ground: Ground) -> Receipt | None:
        return erasure_of(ground, session)

    def decide(ground: Ground) -> list[Part]:
        return _asked(ground, session, reason, cascade=cascade, summaries=summaries)

    def finish(runner: Runner) -> None:
        complete(runner, session, options)

    return request(
        [(session, KNOWN)],
        ["erase", session, reason, cascade, *(["summaries"] if summaries else [])],
        decide,
        options,
        reads_state=True,
        known=known,
        finish=finish,
    )


def erasure_of(ground: Ground, session: str) -> Receipt | None:
    """Return the receipt of a session's erasure, None where there was none."""
    if ground.headers.standing(session).status != "erased":
        return None
    return receipt_again(_request_of(ground.log, session).frame)


def _request_of(log: Log, session: str) -> Recorded:
    """Return the fact that asked for an erasure: the last one, or the last but one."""
    newest = tail_of(log, session).version
    for version in (newest, newest - 1):
        recorded = fact_at(log, session, version)
        if recorded.type_code == TYPE_CODES[ev.EraseRequested]:
            return recorded
    raise KeyShredded(session)


def _asked(
    ground: Ground, session: str, reason: str, *, cascade: bool, summaries: bool
) -> list[Part]:
    """Decide that a session is to be erased. Raises InvalidEvent and LegalHold.

    With it go, from the sessions that took it in, the values and summaries that came by that.
    """
    if ground.log.codec.seal is None:
        raise InvalidEvent(
            "only an encrypted store can erase: what this one wrote stays in its free pages and "
            "backups; redact() hides single messages"
        )
    ground.headers.check_free(session)
    taken = taken_in(ground.log, facts_of(ground.log, session, 0, ev.BranchMerged), {session})
    dependents = dependents_of(ground, session, set(taken))
    if dependents and not cascade:
        named = ", ".join(f"{name!r} (shows {lines} of its messages)" for name, lines in dependents)
        raise InvalidEvent(
            f"erasing session {session!r} takes from others what they have of it: {named}; "
            "pass cascade=True (--cascade) if they are to lose it"
        )
    going = _merged_in(taken)
    if summaries:
        whole = {each[:2] for each in going}
        made = map(shred_of, Quoting.of_session(ground.log, session).read_on(ground.log))
        going += [each for each in made if each[:2] not in whole]
    for other in {shred.session for shred in going}:
        ground.headers.check_free(other)
    fact = ev.EraseRequested([key_of(ground.log, session)], reason, dependents)
    first = Part(session, [fact], ground.headers.now(session).version)
    return [first, *redacting(going, reason)]


def taken_in(log: Log, merges: Iterable[Recorded], sources: Collection[str]) -> dict[str, Versions]:
    """Return which facts brought more than lines of the sources into others, out of some merges."""
    found: dict[str, set[int]] = {}
    for recorded in merges:
        try:
            half = recorded.structure
            if not isinstance(half, ev.BranchMerged) or half.source not in sources:
                continue
            if _has_more(log, half.into, half.into_version):
                found.setdefault(half.into, set()).add(half.into_version)
        except KeyShredded:
            continue  # erased itself, and nobody can read it any more
    return {session: sorted(versions) for session, versions in found.items()}


def _has_more(log: Log, session: str, version: int) -> bool:
    """Return True for a merge that still has values, or that lost them and no fact says why."""
    if not log.unerased([log.codec.names.kept(SESSION_NAME, session)]):
        return False
    recorded = fact_at(log, session, version)
    event = recorded.structure
    if event is None or stripped(event) == event:
        return recorded.erased and redaction_of(log, session, version) is None
    return True


def _merged_in(taken: Mapping[str, Versions]) -> list[Shred]:
    """Return the payloads of these merges: values and summaries."""
    return [
        Shred(session, version, version, whole=True)
        for session, versions in taken.items()
        for version in versions
    ]


def dependents_of(ground: Ground, session: str, takers: Collection[str] = ()) -> list[Dependent]:
    """Return the sessions that have something of this one, and how many lines of it they show.

    Its branches inherit its values, `takers` and their branches have them by a merge, whatever
    lines they show. Looks at the newest state of every session.
    """
    having = set(takers)
    lines: dict[str, int] = {}
    parents: dict[str, str | None] = {}
    after = ""
    while names := ground.log.sessions(after):
        for name in names:
            header = ground.headers.now(name)
            if header.status != "erased" and name not in (session, SYSTEM):
                lines[name] = length(span for span in header.spans if span.session == session)
            parents[name] = header.parent
        after = names[-1]
    having |= {name for name in lines if _descends(parents, name, {session, *takers})}
    return [(name, count) for name, count in lines.items() if count or name in having]


def _descends(parents: dict[str, str | None], name: str, ancestors: Collection[str]) -> bool:
    parent = parents.get(name)
    while parent is not None and parent not in ancestors:
        parent = parents.get(parent)
    return parent is not None


def complete(runner: Runner, session: str, options: Options) -> None:
    """Take an erasure that was asked for to its end; does nothing where it is there.

    Raises StoreUnavailable where the keyring can't destroy the key; the next one to open the
    store goes on then.
    """
    if session in runner.log.erasing():
        asked = _request_of(runner.log, session).event
        assert isinstance(asked, ev.EraseRequested)
        _shred(runner.log, session)
        seal = runner.log.codec.seal
        assert seal is not None
        seal.opened().shred(asked.keys, seal.names.kept(SESSION_NAME, session))
        seal.keys.pop(session, None)
        runner.run(_conclusion(session, ev.KeyShredded(asked.keys, asked.reason), options))
    runner.headers.erasures()


def _shred(log: Log, session: str) -> None:
    """Take the payloads of a session away, a page of frames a transaction."""
    newest, version = tail_of(log, session).version, 0
    while version <= newest:
        last = frames_at(log, session, version, frames_max=PAGE_FRAMES)[-1].last_version
        log.shred(Shred(session, version, last, whole=True))
        version = last + 1


def _conclusion(session: str, fact: ev.KeyShredded, options: Options) -> Request:
    """Return the request that says it is over; another process may have said so meanwhile."""

    def known(ground: Ground) -> Receipt | None:
        done = session not in ground.log.erasing()
        return receipt_again(_request_of(ground.log, session).frame) if done else None

    def decide(ground: Ground) -> list[Part]:
        return [Part(session, [fact], tail_of(ground.log, session).version)]

    who: Options = {"actor": options.get("actor")}
    return request([], ["erased", session], decide, who, reads_state=True, known=known)


def resume(runner: Runner) -> None:
    """Complete the erasures that were interrupted, and those that are newer than the store.

    A copy of before an erasure holds a session whose key the keyring has destroyed since: it is
    erased here too, so that nothing that folds the log meets what nobody can read.
    """
    for session in runner.log.erasing():
        complete(runner, session, {})
    again = outlived(runner.log)
    if again:
        taken = taken_in(runner.log, _all_merges(runner.log), again)
        runner.run(_repetition(again, {each: taken[each] for each in taken if each not in again}))
        resume(runner)


def outlived(log: Log) -> dict[str, int | None]:
    """Return the sessions of a copy whose keys the keyring has destroyed since, and these keys.

    None stands for a key of which not even the id is left.
    """
    seal = log.codec.seal
    destroyed = {} if seal is None or log.codec.locked else seal.opened().destroyed()
    found = {each: _known_key(log, each) for each in log.unerased(destroyed.values())}
    return {each: key for each, key in found.items() if key is None or key in destroyed}


def forget_outlived(log: Log) -> None:
    """Have a copy that can't be written tell what it would if it erased these sessions again."""
    gone, seal = outlived(log), log.codec.seal
    if not gone or seal is None:
        return
    taken = taken_in(log, _all_merges(log), gone)
    for session in taken.keys() - gone.keys():
        for version in taken[session]:
            event = fact_at(log, session, version).structure
            seal.left[session, version] = None if event is None else stripped(event)
    seal.gone = {key: session for session, key in gone.items() if key is not None}


def _known_key(log: Log, session: str) -> int | None:
    """Return the id of a session's key, None where its first payload is gone already."""
    try:
        return key_of(log, session)
    except KeyShredded:
        return None


def _all_merges(log: Log) -> Iterator[Recorded]:
    """Iterate over the facts about merges in all sessions."""
    code = TYPE_CODES[ev.BranchMerged]
    for frame in frames_between(log):
        if not frame.only_messages:
            yield from (each for each in frame.recorded() if each.type_code == code)


def _repetition(again: Mapping[str, int | None], taken: Mapping[str, Versions]) -> Request:
    """Return the request for erasures that this copy of the store knows nothing of."""

    def known(ground: Ground) -> Receipt | None:
        for session in again:
            newest = _newest(ground.log, session)
            if newest.type_code not in _ENDS:
                return None
        return receipt_again(newest.frame)

    def decide(ground: Ground) -> list[Part]:
        parts = []
        for session, key in again.items():
            fact = ev.EraseRequested([] if key is None else [key], REPEATED)
            parts.append(Part(session, [fact], _newest(ground.log, session).version))
        return [*parts, *redacting(_merged_in(taken), REPEATED)]

    return request([], ["erase", *again], decide, {}, reads_state=True, known=known)


def _newest(log: Log, session: str) -> Recorded:
    return fact_at(log, session, tail_of(log, session).version)
