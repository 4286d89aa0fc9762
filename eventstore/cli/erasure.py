"""Commands after which something can't be read any more, and the holds that forbid them.

Invariants: each is a fact with its reason and prints its receipt; entries and proofs stay.
"""

from typing import Annotated

import typer

from .. import EventStore, InvalidEvent, Receipt
from ..engine.quoting import Quote
from ..engine.requests import Options
from ..errors import counted
from ..events import Redacted
from ..sessions.templates import made_of
from .app import PROOF, Answer, Session, mutation
from .writes import Reason, parse_place

NAMED_MAX = 10
"""Summaries that are named to people; JSON has all."""

Summaries = Annotated[
    bool, typer.Option("--summaries", help="Also the summaries that were made of it, everywhere.")
]


def _answer(receipt: Receipt, left: list[Quote], *remarks: str) -> Answer:
    """Return a receipt with the summaries that still tell of what is gone."""
    if left:
        named = ", ".join(f"{each.session}#{each.version}" for each in left[:NAMED_MAX])
        more = ", ..." if len(left) > NAMED_MAX else ""
        summaries = counted(len(left), "summary", "summaries")
        remarks = (*remarks, f"{summaries} made of it can still be read: {named}{more}")
    return Answer(receipt, remarks, {"summaries": [each._asdict() for each in left]})


@mutation(PROOF)
def redact(
    store: EventStore,
    options: Options,
    session: Session,
    message: Annotated[str, typer.Argument(help="Its version or id.", show_default=False)],
    reason: Reason = None,
    summaries: Summaries = False,
) -> Answer:
    """Hide a message, a value, a tool call or an error everywhere; its place and proofs stay."""
    place = parse_place(message)
    receipt = store.redact(session, place, reason=reason, summaries=summaries, **options)
    gone = _redacted(store, receipt)
    left = [] if summaries else store.quoting(receipt.session, gone)
    templates = made_of(store.log, receipt.session, gone)
    remarks = _copied(templates)
    if store.trained:
        learnt = "free pages and dictionaries may hold pieces of it until 'eventstore compact'"
        remarks.append(learnt)
    answer = _answer(receipt, left, *remarks)
    return answer._replace(besides={**answer.besides, "templates": templates})


def _redacted(store: EventStore, receipt: Receipt) -> int:
    """Return the version of what a receipt says is redacted, of its session."""
    fact = next(store.events(receipt.session, receipt.first_version, limit=1)).event
    assert isinstance(fact, Redacted)
    return fact.version


def _copied(templates: list[str]) -> list[str]:
    """Return what is to be said of templates that have words of what is gone."""
    told = f"{counted(len(templates), 'template')} made of it can still be read: "
    return [told + ", ".join(templates)] if templates else []


@mutation(PROOF)
def erase(
    store: EventStore,
    options: Options,
    session: Session,
    reason: Annotated[str, typer.Option(help="Why; kept with the fact.", show_default=False)],
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Also where branches and merges show its messages.")
    ] = False,
    summaries: Summaries = False,
) -> Answer:
    """Destroy the keys of a session's payloads: nobody can read them again, the proofs stay."""
    receipt = store.erase(session, reason=reason, cascade=cascade, summaries=summaries, **options)
    templates = made_of(store.log, session)
    answer = _answer(receipt, [] if summaries else store.quoting(session), *_copied(templates))
    return answer._replace(besides={**answer.besides, "templates": templates})


@mutation(PROOF)
def hold(
    store: EventStore,
    options: Options,
    what: Annotated[str, typer.Argument(metavar="set | clear", help="What to do.")],
    session: Annotated[str | None, typer.Argument(help="The session held.")] = None,
    user: Annotated[str | None, typer.Option(help="Or all sessions of this user.")] = None,
    reason: Reason = None,
) -> Receipt:
    """Put a session or a user under legal hold, or end that: held, nothing can be erased."""
    if what not in ("set", "clear") or (session is None) == (user is None):
        raise InvalidEvent("hold takes: set S, clear S, set --user U, or clear --user U")
    act = store.set_hold if what == "set" else store.clear_hold
    return act(session, user=user, reason=reason, **options)
