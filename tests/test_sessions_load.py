"""Under load: threads, tasks and two processes on the same sessions lose and double nothing."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from load import CALLERS, KEPT, Size, kind, opened, run

from eventstore import EventStore, Message, events
from eventstore.messages import calls_answered, calls_made
from eventstore.sessions import SessionManager
from projections import SessionState


def played(store: EventStore, session: str) -> tuple[list[tuple], str]:
    """Return what a session shows and its status, by reading its facts one by one."""
    lines: list[tuple] = []
    messages: list[dict] = []
    important, status = set(), "active"
    for version, recorded in enumerate(store.events(session)):
        assert recorded.version == version
        event = recorded.event
        if isinstance(event, events.MessageAppended):
            place = (session, len(messages), False)
            lines.append(place)
            messages.append(event.message.to_dict())
            important |= {place} if event.message.metadata.get("important") else set()
        elif isinstance(event, (events.MessagesPruned, events.HistorySummarized)):
            gone = [
                (span.session, number, span.note)
                for span in event.spans
                for number in range(span.start, span.stop)
            ]
            assert len(gone) == event.count and set(gone) <= set(lines) - important
            first = lines.index(gone[0])
            lines = [line for line in lines if line not in gone]
            if isinstance(event, events.HistorySummarized):
                lines.insert(first, (session, version, True))
        elif isinstance(event, events.SessionDeleted):
            status = "deleted"
    shown = [("summary", at) if note else tuple(messages[at]["by"]) for _, at, note in lines]
    return shown, status


def place(message: Message) -> tuple:
    """Return who said a visible message and as which, or which fact holds a summary."""
    if message.role == "system":
        return "summary", int(message.id.split("#")[1])
    return tuple(message.fields["by"])


def check_session(manager: SessionManager, session: str, said: Counter) -> str:
    """Assert that a session holds what was taken, in each caller's order, and shows its facts'."""
    store = manager.store
    facts = [each.event for each in store.events(session)]
    spoken = [e.message.to_dict()["by"] for e in facts if isinstance(e, events.MessageAppended)]
    assert Counter(map(tuple, spoken)) == said
    for caller in CALLERS:
        own = [number for by, number in spoken if by == caller]
        assert own == sorted(own)
    shown, status = played(store, session)
    state = SessionState.of(store, session, at_version=store.version(session))
    assert state.status == status
    assert [place(each) for each in state.messages] == shown
    made = set().union(*(calls_made(each.fields) for each in state.messages))
    answered = set().union(*(calls_answered(each.fields) for each in state.messages))
    assert answered == made
    if state.metadata["kind"] == "trimmed":
        assert len(shown) <= KEPT
    return status


def check(size: Size, manager: SessionManager, said: list) -> None:
    """Assert that every message is one fact of the session that took it, and all is as it says."""
    everything = Counter((caller, number) for _, caller, number in said)
    shares = {(each, n): size.chats for each in CALLERS for n in range(size.share(each))}
    assert everything == shares
    by_session: dict[str, Counter] = {}
    for session, caller, number in said:
        by_session.setdefault(session, Counter())[caller, number] += 1
    statuses = Counter()
    for session in manager.store.sessions():
        status = check_session(manager, session, by_session.pop(session, Counter()))
        born = SessionState.of(manager.store, session, at_version=0)
        statuses[born.metadata["kind"], status] += 1
    assert by_session == {}
    living = {(kind(chat), "active") for chat in range(size.chats) if kind(chat) != "short"}
    assert set(statuses) == living | {("short", "deleted")}
    assert all(statuses[each] == size.chats // 4 for each in living)
    assert statuses["short", "deleted"] >= size.chats // 4


def loaded(size: Size) -> dict[str, float]:
    """Run the load, check all of it, and return what happened in numbers."""
    with opened(size) as manager:
        start = time.perf_counter()
        said = run(manager, size)
        seconds = time.perf_counter() - start
        manager.summaries.wait_idle()
        manager.stop()
        time.sleep(size.ttl)
        manager.cleanup()
        check(size, manager, said)
        totals = manager.statistics()
        assert totals["summaries"] >= size.chats // 4
        assert totals["pruned"] > 0 and totals["cleanup"]["rounds"] > 1
        assert totals["errors"] == {}
    cli = [sys.executable, "-m", "eventstore.cli", "--store", size.path, "verify", "--deep"]
    done = subprocess.run(cli, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = ("events", "sessions", "messages", "summaries", "prunes", "pruned", "deleted")
    rate = round(len(said) / seconds)
    return {"seconds": round(seconds, 1), "messages_a_second": rate} | {n: totals[n] for n in names}


def test_forty_sessions_under_load(tmp_path: Path):
    """40 sessions of 18 messages from threads, tasks and two processes, all workers running."""
    loaded(Size(str(tmp_path / "history"), 40, 18, threads=8, ttl=0.3, interval=0.1))


@pytest.mark.long
def test_two_thousand_sessions_under_load(tmp_path: Path):
    """2,000 sessions of 50 messages, the same way; the figures are printed with -s."""
    print(loaded(Size(str(tmp_path / "history"), 2_000, 50, threads=16, ttl=20.0, interval=5.0)))
