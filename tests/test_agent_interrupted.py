"""Turns that were interrupted or taken back: gone on with, and nothing is done twice."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from faces import PLAIN
from hypothesis import given
from hypothesis import strategies as st
from turns import Script, adder, call, facts, interrupted, texts

from eventstore import (
    EventStore,
    InvalidEvent,
    Message,
)
from eventstore.audit.verify import verify
from eventstore.sessions import AgentSession, SessionManager
from eventstore.sessions.agent import echo
from projections import SessionState

WORK = [["first", "second"], ["third"]]


"""The tools that the agent asks for, reply by reply."""


FACTS = 10


"""Facts of its whole turn: a question, three replies, three runs, three results."""


def worker(messages):
    """Ask for all that is to be done, then say so: an agent without a memory of its own."""
    number = sum(each["role"] == "assistant" for each in messages)
    if number == len(WORK):
        return "all done"
    return {"tool_calls": [call(name, identity=name)["tool_calls"][0] for name in WORK[number]]}


def work(path: Path, deadly: str) -> Message | None:
    """Do the turn, or what is left of it; die where `deadly` says: in a tool or after n facts."""
    left = [int(deadly) if deadly.isdigit() else 0]

    def note(name):
        with Path(f"{path}.runs").open("a") as file:
            file.write(f"{name} ")
        if name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{name} done"

    def counted(command):
        def run(*args, **fields):
            receipt = command(*args, **fields)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return receipt

        return run

    with SessionManager.open(path, PLAIN) as manager:
        for name in ("add_message", "record_tool_call"):
            setattr(manager, name, counted(getattr(manager, name)))
        tools = {name: partial(note, name) for name in ("first", "second", "third")}
        session = AgentSession(manager, "s", worker, tools=tools)
        if manager.exists("s"):
            return session.resume()
        manager.create("s")
        return session.send_message("do it all")


def killed(path: Path, deadly: str) -> None:
    """Do the turn in a process of its own and assert that it dies where it should."""
    child = os.fork()
    if not child:
        try:
            work(path, deadly)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_turn(path: Path) -> None:
    """Assert that the whole turn is there, once, in a sound store."""
    with EventStore.open(path) as store:
        assert verify(store).findings == []
        messages = SessionState.of(store, "s").messages
        roles = ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
        assert [each.role for each in messages] == roles
        said = [each.content for each in messages if each.role == "tool"]
        assert said == ["first done", "second done", "third done"]
        assert store.version("s") == FACTS


@pytest.mark.parametrize("facts_before", range(1, FACTS + 1))
def test_a_killed_process_repeats_nothing(tmp_path, facts_before):
    """Killed after any fact of a turn, it goes on in the next process; each tool ran once."""
    path = tmp_path / "h"
    killed(path, str(facts_before))
    answer = work(path, "")
    assert answer is None if facts_before == FACTS else answer.content == "all done"
    check_turn(path)
    assert Path(f"{path}.runs").read_text().split() == ["first", "second", "third"]


def test_a_tool_that_was_running_runs_once_more(tmp_path):
    """Killed inside a tool, before its result is a fact: that tool alone runs again."""
    path = tmp_path / "h"
    killed(path, "second")
    assert work(path, "").content == "all done"
    check_turn(path)
    assert Path(f"{path}.runs").read_text().split() == ["first", "second", "second", "third"]


def test_the_next_message_goes_on_with_an_interrupted_turn(sessions, ask):
    """Another message finishes it first; the same one is not asked again, but answered."""
    agent = Script("never seen", "one", "two", "three")
    session = AgentSession(sessions, "s", agent)
    interrupted(session, "first", 1)
    assert (session.turn().state, texts(sessions)) == ("interrupted", ["first"])
    agent.replies.pop(0)
    assert ask(session, "send_message", "second").content == "two"
    assert texts(sessions) == ["first", "one", "second", "two"]
    interrupted(session, "third", 1)
    assert ask(session, "send_message", "third").content == "three"
    assert texts(sessions)[4:] == ["third", "three"]


@pytest.mark.parametrize("take_back", ["clear", "rewind", "undo"])
def test_a_turn_that_was_taken_back_is_not_resumed(sessions, take_back):
    """Clearing or rewinding ends an interrupted turn: nothing is asked for it again."""
    session = AgentSession(sessions, "s", Script("new"))
    interrupted(session, "old", 1)
    if take_back == "rewind":
        sessions.store.rewind("s", 0)
    else:
        getattr(session, take_back)()
    assert session.turn().state == "undone"
    assert session.resume() is None
    session.send_message("begin")
    assert texts(sessions) == ["begin", "new"]


def test_a_summarised_question_is_still_asked(sessions):
    """A summary that covers the question of an interrupted turn does not end that turn."""
    session = AgentSession(sessions, "s", echo)
    interrupted(session, "old", 1)
    sessions.summarize("s", "they asked", upto=1)
    assert session.resume().content == "they asked"


def test_a_turn_whose_question_was_pruned_is_still_a_turn(sessions):
    """What pruning hides takes nothing back: an answered turn can be undone."""
    session = AgentSession(sessions, "s", echo)
    session.send_message("one")
    session.send_message("two")
    sessions.store.prune("s", keep_last=1)
    assert session.turn().state == "answered"
    session.undo()
    assert (session.turn().state, texts(sessions)) == ("undone", ["one", "one"])
    sessions.store.prune("s", keep_last=1)
    session.undo()
    assert texts(sessions) == []
    with pytest.raises(InvalidEvent, match="no turn to undo"):
        session.undo()


def test_an_interrupted_turn_whose_question_was_pruned_is_resumed(sessions):
    """A call that waits for its result is shown still, so the turn goes on."""
    session = AgentSession(sessions, "s", Script(call("add"), "done"), tools={"add": lambda: 3})
    interrupted(session, "old", 2)
    sessions.store.prune("s", keep_last=1)
    assert session.turn().state == "interrupted"
    assert session.resume().content == "done"


def test_a_summarised_turn_is_undone_once(sessions):
    """Also where a summary covered its question, the next undo goes to the turn before."""
    session = AgentSession(sessions, "s", echo)
    session.send_message("one")
    session.send_message("two")
    sessions.summarize("s", "they asked", upto=3)
    session.undo()
    session.undo()
    assert texts(sessions) == []


@pytest.mark.parametrize("version", [1, 2, 4])
@pytest.mark.parametrize("state", ["answered", "undone"])
def test_a_turn_that_lost_a_message_is_not_gone_on_with(sessions, ask, version, state):
    """Redacting a question, a call or a result of the newest turn stops no later turn, nor undo."""
    session = AgentSession(sessions, "s", Script(call("add")), tools={"add": lambda: 3})
    interrupted(session, "what is it?", 3)
    if state == "answered":
        session.resume(echo)
    sessions.store.redact("s", version)
    assert (session.turn().state, ask(session, "resume")) == (state, None)
    left = texts(sessions)
    session.send_message("again", echo)
    assert texts(sessions) == [*left, "again", "again"]
    session.undo()
    assert texts(sessions) == left
    session.undo()
    assert texts(sessions) == []


def test_a_redacted_answer_is_not_asked_for_again(sessions):
    """A turn whose answer was redacted is over, and one of which nothing is left was no turn."""
    session = AgentSession(sessions, "s", echo)
    session.send_message("one")
    sessions.store.redact("s", 2)
    assert (session.turn().state, session.resume(), session.turn().answer) == ("undone", None, None)
    sessions.store.redact("s", 1)
    assert session.turn().question.fields == {"role": "user"}
    with pytest.raises(InvalidEvent, match="no turn to undo"):
        session.undo()
    assert session.send_message("two").content == "two"


def test_undo_takes_turns_back_one_by_one(sessions, ask):
    """Each undo goes to before the newest turn that stands; the past stays in the history."""
    session = AgentSession(sessions, "s", echo)
    for text in ("one", "two", "three"):
        session.send_message(text)
    ask(session, "undo")
    assert texts(sessions) == ["one", "one", "two", "two"]
    ask(session, "undo")
    session.send_message("four")
    assert texts(sessions) == ["one", "one", "four", "four"]
    assert len(SessionState.of(sessions.store, "s", at_version=6).messages) == 6
    ask(session, "clear")
    assert ask(session, "message_count") == 0


def test_a_branch_begins_its_own_turns(sessions):
    """A branch of an interrupted turn leaves that to its parent."""
    parent = AgentSession(sessions, "s", Script(call("add"), "later"), tools={"add": adder})
    interrupted(parent, "hi", 2)
    sessions.branch("s", session_id="b")
    branch = AgentSession(sessions, "b", agent := Script("here"))
    assert branch.resume() is None
    branch.send_message("and you?")
    assert [each["content"] for each in agent.seen[0]] == ["hi", "and you?"]
    assert (parent.turn().state, branch.turn().state) == ("interrupted", "answered")


REPLIES = st.lists(st.lists(st.booleans(), min_size=1, max_size=3), max_size=3)


@given(replies=REPLIES, cuts=st.lists(st.integers(1, 4), max_size=4))
def test_interruptions_change_nothing(replies, cuts):
    """A turn cut short anywhere, again and again, leaves the facts of one that was not."""

    def agent(messages):
        number = sum(each["role"] == "assistant" for each in messages)
        if number == len(replies):
            return "the end"
        names = ["fine" if each else "broken" for each in replies[number]]
        asked = [{"name": name, "arguments": {"n": n}} for n, name in enumerate(names)]
        return {"tool_calls": [{"function": each} for each in asked]}

    def told(cuts):
        runs = []
        tools = {"fine": lambda n: runs.append(n) or n, "broken": lambda n: runs.append(n) or 1 / 0}
        with EventStore.in_memory() as store, SessionManager(store, PLAIN) as manager:
            manager.create("s")
            session = AgentSession(manager, "s", agent, tools=tools)
            for cut in cuts:
                steps = session.sending("go", None, None)
                try:
                    foreign = next(steps)
                    for _ in range(cut):
                        try:
                            value = foreign()
                        except ZeroDivisionError as error:
                            foreign = steps.throw(error)
                        else:
                            foreign = steps.send(value)
                    steps.close()
                except StopIteration:
                    break
            else:
                session.send_message("go")
            return runs, [
                (each.type, each.key, getattr(each.event, "message", each.event.__class__))
                for each in facts(manager)
            ]

    assert told(cuts) == told([])
