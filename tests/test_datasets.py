"""Data sets: trials of tau-bench and dialogues of chitchat come in with every message equal."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talks import SECOND, said, shown, written

from eventstore import EventStore
from eventstore.audit.verify import verify
from eventstore.interchange import (
    Imported,
    detect_format,
    export_chat,
    import_chitchat,
    import_file,
    import_tau,
    mismatches,
)
from eventstore.interchange.chitchat import PACKAGE, chitchat_path
from projections import SessionState

TAU = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"


# -- tau-bench -------------------------------------------------------------------------

LINES = st.builds(said, st.sampled_from("ab"), st.sampled_from(["user", "assistant"]))
TRAJECTORIES = st.lists(
    st.tuples(st.integers(0, 1), st.lists(LINES, max_size=5)), min_size=1, max_size=16
)


def trajectories(drawn) -> list[dict]:
    """Return drawn (task, messages) as trials in the benchmark's shape."""
    return [
        {"task_id": task, "trial": trial, "reward": trial / 2, "traj": messages, "info": {}}
        for trial, (task, messages) in enumerate(drawn)
    ]


@given(TRAJECTORIES, st.sampled_from([1, 2, 10]))
def test_trials_are_branches_and_give_back_their_messages(tmp_path_factory, drawn, max_depth):
    """Every trial shows its own messages; shared beginnings are stored once where depth allows."""
    path = written(tmp_path_factory.getbasetemp() / "tau_x.json", trajectories(drawn))
    with EventStore.in_memory(max_depth=max_depth) as store:
        found = import_tau(store, path)
        assert mismatches(store, path) == []
        assert found.sessions == len({task for task, _ in drawn})
        assert found.branches == len(drawn) - found.sessions
        depths = [store.headers.now(name).depth for name in store.sessions()]
        assert max(depths) <= max_depth
        if max_depth == 10 and max(depths) < max_depth:
            starts = {
                (task, json.dumps(messages[: end + 1]))
                for task, messages in drawn
                for end in range(len(messages))
            }
            assert found.messages == len(starts)
        assert verify(store, deep=True).sound


def test_a_trial_has_its_own_reward_and_task(store, tmp_path):
    """A branch's metadata is its own, also where its parent has keys that it lacks."""
    task = {"instruction": "book", "user_id": "u"}
    items = [
        {"task_id": 3, "trial": 0, "reward": 1.0, "traj": [said("a")], "info": {"task": task}},
        {"task_id": 3, "trial": 5, "reward": 0, "traj": [said("a"), said("b")], "info": None},
    ]
    path = written(tmp_path / "tau_airline_conversations.json", items)
    assert detect_format(path) == "tau"
    assert import_file(store, path) == Imported(1, 1, 2, 5)
    first = SessionState.of(store, "airline-task-3").metadata
    assert first == {
        "source": "tau-bench",
        "task_id": 3,
        "trial": 0,
        "reward": 1.0,
        "instruction": "book",
    }
    second = SessionState.of(store, "airline-task-3-trial-5")
    assert second.metadata == {"source": "tau-bench", "task_id": 3, "trial": 5, "reward": 0}
    assert (second.parent, second.header.at_version) == ("airline-task-3", 1)


def test_a_changed_message_is_a_mismatch(store, tmp_path):
    """The check compares with the file: 1 and 1.0 are not the same there."""
    item = {"task_id": 0, "trial": 0, "reward": 1, "traj": [said("a", n=1)]}
    path = written(tmp_path / "x.json", [item])
    import_tau(store, path)
    assert mismatches(store, path) == []
    item["traj"][0]["n"] = 1.0
    assert mismatches(store, written(path, [item])) == ["x-task-0"]


@pytest.mark.skipif(not TAU.exists(), reason="the tau-bench conversations are not there")
def test_all_conversations_of_tau_bench_come_back_equal(disk):
    """200 real conversations with tool calls: 50 sessions, 150 branches, every message equal."""
    assert detect_format(TAU) == "tau"
    found = import_file(disk, TAU)
    assert (found.sessions, found.branches) == (50, 150)
    assert mismatches(disk, TAU) == []
    for item in json.loads(TAU.read_bytes()):
        trial = f"-trial-{item['trial']}" if item["trial"] else ""
        session = f"airline-task-{item['task_id']}{trial}"
        assert export_chat(disk, session)["messages"] == item["traj"]
    assert verify(disk, deep=True).sound


# -- chitchat --------------------------------------------------------------------------


def test_a_dialogue_is_told_by_its_senders(store, tmp_path):
    """Who speaks first is the user; times, prompt, ratings and start are kept."""
    turns = [[("hi", "p", 15), ("there?", "p", 16)], [("yes", "q", 20)]]
    talk = {
        "messages": [
            [
                {"text": text, "sender": who, "timestamp": f"2018-05-02T19:38:{second}Z"}
                for text, who, second in turn
            ]
            for turn in turns
        ],
        "prompt": "What?",
        "ratings": {"witty": 10},
        "start": "2018-05-03T01:38:01Z",
    }
    path = written(tmp_path / "talks.json", {"x-1": talk})
    assert detect_format(path) == "chitchat"
    assert import_file(store, path) == Imported(1, 0, 3, 4)
    assert shown(store, "chitchat-x-1") == [
        said("hi", name="p"),
        said("there?", name="p"),
        said("yes", "assistant", name="q"),
    ]
    base = int(datetime(2018, 5, 2, 19, 38, tzinfo=UTC).timestamp())
    times = [each.occurred_at for each in store.events("chitchat-x-1")]
    assert times == [None, *((base + second) * SECOND for second in (15, 16, 20))]
    assert SessionState.of(store, "chitchat-x-1").metadata == {
        "source": "chitchat-dataset",
        "prompt": "What?",
        "ratings": {"witty": 10},
        "start": "2018-05-03T01:38:01Z",
    }


def test_real_dialogues_come_in_with_every_text(disk, tmp_path):
    """Some hundred conversations of the dataset, each text in its place."""
    pytest.importorskip(PACKAGE, reason=f"{PACKAGE} is not installed")
    talks = dict(list(json.loads(chitchat_path().read_bytes()).items())[:300])
    told = []
    found = import_chitchat(disk, written(tmp_path / "talks.json", talks), progress=told.append)
    assert (found.sessions, found.messages) == (300, sum(told))
    for key, talk in talks.items():
        texts = [each["text"] for turn in talk["messages"] for each in turn]
        assert [each["content"] for each in shown(disk, f"chitchat-{key}")] == texts
    assert verify(disk).sound
