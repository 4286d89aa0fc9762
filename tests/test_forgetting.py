"""Whatever was played, an erasure takes its own lines and no others, and no proof breaks."""

import pytest
from facts import told
from handed_out import HandedOut
from play import Play, steps_of

from eventstore import EventStore, InvalidEvent
from eventstore.audit.verify import verify, verify_directory
from eventstore.ids import parse_message_id
from eventstore.sessions import SessionManager
from eventstore.state.header import SessionHeader
from projections import BranchTree, SessionState, Statistics

LONG = pytest.mark.long


def played(store: EventStore, seed: int) -> list[str]:
    """Play a history with tools, branches and merges; return its sessions."""
    play = Play(store, metadata={"of": "s"}, user="u1")
    for number, step in enumerate(steps_of(seed, 30)):
        play.do(*step)
        if number % 10 == 9 and play.session != "s":
            store.merge(play.session, into="s", strategy="append", on_conflict="ours")
    store.create("apart", metadata={"of": "apart"})
    store.append("apart", {"role": "user", "content": "word apart"})
    return list(store.sessions())


def origin_of(message) -> str:
    """Return the session in which a message was said."""
    place = parse_message_id(message.id)
    assert place is not None
    return place[0]


def lines(store: EventStore, session: str) -> list[list[tuple[str, object]]]:
    """Return what a session showed at each of its versions: where it was said, and what."""
    return [
        [(origin_of(each), each.fields) for each in SessionState.of(store, session, **at).messages]
        for at in ({"at_version": version} for version in range(store.version(session) + 1))
    ]


def everything(store: EventStore, manager: SessionManager, session: str) -> dict[str, object]:
    """Return all that readers say of a session that has nothing of the one that goes."""
    return {
        "state": store.headers.now(session),
        "lines": lines(store, session),
        "statistics": Statistics.of(store, session),
        "context": manager.build_context(session),
        "row": [row for row in manager.list(limit=None) if row.session == session],
        "tree": str(BranchTree.of(store, session)) if session == "apart" else None,
    }


def hits(manager: SessionManager) -> set[str]:
    """Return the messages that a search finds, wherever it finds them first."""
    return {hit.message.id for hit in manager.search("word", limit=None) if hit.message}


def places(header: SessionHeader) -> tuple[object, ...]:
    """Return what an erasure of another session may not change of a header."""
    return header.status, header.appended, header.created_at, header.parent, header.at_version


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=LONG) for n in range(4, 60))])
def test_an_erasure_takes_its_own_lines_and_no_others(tmp_path, keyring, seed):
    """Others keep states, statistics, contexts and search; dependents lose just its lines."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        sessions = played(store, seed)
        doomed = sessions[seed % len(sessions)]
        others = [each for each in sessions if each != doomed]
        proofs = HandedOut(store, tmp_path, doomed)
        with SessionManager(store) as manager:
            before = {each: everything(store, manager, each) for each in others}
            heads = {each: places(store.headers.now(each)) for each in others}
            found = hits(manager)
            dependents = erased(store, doomed)
            after = {each: everything(store, manager, each) for each in others}
            shown = {line.id for each in others for line in SessionState.of(store, each).messages}
            assert hits(manager) == found & shown
        for each in others:
            if each not in dependents:
                assert after[each] == before[each]
            assert places(store.headers.now(each)) == heads[each]
            left = [[said for said in then if said[0] != doomed] for then in before[each]["lines"]]
            assert after[each]["lines"][: len(left)] == left
        proofs.check()
        assert told(verify(store, deep=True)) == ""
    assert told(verify_directory(tmp_path / "history", deep=True)) == ""


def erased(store: EventStore, doomed: str) -> dict[str, int]:
    """Erase a session; return who had something of it, and how many lines."""
    try:
        receipt = store.erase(doomed, reason="asked for")
    except InvalidEvent:
        receipt = store.erase(doomed, reason="asked for", cascade=True)
    again = store.erase(doomed, reason="asked for")
    assert again.duplicate and again.position == receipt.position
    fact = store.event(receipt.position).event
    return dict(fact.dependents)
