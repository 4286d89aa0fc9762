"""Commands after which something can't be read any more, and the holds that forbid them.

Invariants: each is a fact with its reason and prints its receipt; entries and proofs stay.
"""

from typing import Annotated

import typer

from .. import EventStore, InvalidEvent, Receipt
from ..engine.requests import Options
from .app import PROOF, Session, mutation
from .writes import Reason, parse_place


def _still_learnt(store: EventStore) -> str:
    if not store.trained:
        return ""
    return "free pages and dictionaries may hold pieces of it until 'eventstore compact'"


@mutation(PROOF, remark=_still_learnt)
def redact(
    store: EventStore,
    options: Options,
    session: Session,
    message: Annotated[str, typer.Argument(help="Its version or id.", show_default=False)],
    reason: Reason = None,
) -> Receipt:
    """Hide one message everywhere and delete its payload; its place and proofs stay."""
    return store.redact(session, parse_place(message), reason=reason, **options)


@mutation(PROOF)
def erase(
    store: EventStore,
    options: Options,
    session: Session,
    reason: Annotated[str, typer.Option(help="Why; kept with the fact.", show_default=False)],
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Also where branches and merges show its messages.")
    ] = False,
) -> Receipt:
    """Destroy the keys of a session's payloads: nobody can read them again, the proofs stay."""
    return store.erase(session, reason=reason, cascade=cascade, **options)


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
