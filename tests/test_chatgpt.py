"""The data export of ChatGPT: the current path is the session, all other ends are branches."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talks import SECOND, shown, written

from eventstore import DepthExceeded, EventStore, InvalidEvent, SessionExists
from eventstore.audit.verify import verify
from eventstore.interchange import Imported, detect_format, import_chatgpt, import_file
from projections import BranchTree, SessionState


def node(key: str, parent: str | None, role: str = "user", *parts, **more) -> dict:
    """Return a node of a tree whose message says `parts`, its key where there are none."""
    message = {
        "id": key,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1_700_000_000.5,
        "update_time": None,
        "content": {"content_type": "text", "parts": list(parts or [key])},
        "status": "finished_successfully",
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
        **more,
    }
    return {"id": key, "message": message, "parent": parent, "children": []}


def conversation(*nodes: dict, current: str | None = None, **more) -> dict:
    """Return a conversation of these nodes, below a root that is no message."""
    root = {"id": "root", "message": None, "parent": None, "children": []}
    return {
        "title": "Rain",
        "create_time": 1_700_000_000.0,
        "mapping": {each["id"]: each for each in (root, *nodes)},
        "current_node": current,
        "conversation_id": "c-1",
        **more,
    }


def texts(store: EventStore, session: str) -> list:
    """Return what the messages of a session say."""
    return [message["content"] for message in shown(store, session)]


EDITED = conversation(
    node("s", "root", "system", ""),
    node("q1", "s", "user", "Is it raining?"),
    node("a1", "q1", "assistant", "No.", metadata={"model_slug": "gpt-4o"}),
    node("a2", "q1", "assistant", "It is."),
    node("q2", "a1", "user", "Sure?"),
    node("a3", "q2", "assistant", "Yes."),
    node("q3", "a1", "user", "And now?"),
    current="a3",
)
"""An answer that was asked for again, a question that was edited; the answer first given stays."""


def test_the_current_path_is_the_session(store, tmp_path):
    """Its messages stand under the conversation's id, the title and all else in the metadata."""
    path = written(tmp_path / "conversations.json", [EDITED])
    assert detect_format(path) == "chatgpt"
    assert import_file(store, path) == Imported(1, 2, 6, 9)
    assert texts(store, "c-1") == ["Is it raining?", "No.", "Sure?", "Yes."]
    state = SessionState.of(store, "c-1")
    assert state.metadata == {
        "source": "conversations.json",
        "title": "Rain",
        "create_time": 1_700_000_000.0,
        "current_node": "a3",
    }
    recorded = next(store.events("c-1", 1))
    assert recorded.occurred_at == 1_700_000_000 * SECOND + SECOND // 2
    assert recorded.event.message.id == "q1"


def test_other_ends_are_branches(store, tmp_path):
    """What an edit or another answer left behind begins where its way parts from another."""
    import_chatgpt(store, written(tmp_path / "x.json", [EDITED]))
    assert texts(store, "c-1-branch-1") == ["Is it raining?", "It is."]
    assert texts(store, "c-1-branch-2") == ["Is it raining?", "No.", "And now?"]
    nodes = BranchTree.of(store, "c-1").nodes
    told = {key: (each.parent, each.at_version, each.name) for key, each in nodes.items()}
    assert told == {
        "c-1": (None, None, None),
        "c-1-branch-1": ("c-1", 1, "another answer"),
        "c-1-branch-2": ("c-1", 2, "another question"),
    }


def test_a_message_keeps_what_the_export_says_of_it(store, tmp_path):
    """Role, text, id, model, name and time are where all messages have them, the rest beside it."""
    given = conversation(
        node("q", "root", "user", "Run it."),
        node(
            "c",
            "q",
            "assistant",
            recipient="python",
            content={"content_type": "code", "language": "python", "text": "1 + 1"},
            metadata={"model_slug": "gpt-4o", "finish_details": {"type": "stop"}},
        ),
        node(
            "t", "c", "tool", "2", author={"role": "tool", "name": "python", "metadata": {"a": 1}}
        ),
        node(
            "i",
            "t",
            "user",
            content={
                "content_type": "multimodal_text",
                "parts": [{"content_type": "image_asset_pointer", "asset_pointer": "f"}, "Look."],
            },
        ),
    )
    import_chatgpt(store, written(tmp_path / "x.json", given))
    ask, code, tool, image = shown(store, "c-1")
    usual = {"status": "finished_successfully", "weight": 1.0, "recipient": "all"}
    at = {"created_at": 1_700_000_000.5}
    assert ask == {"role": "user", "content": "Run it.", "id": "q", **at, "chatgpt": usual}
    assert code == {
        "role": "assistant",
        "content": [{"type": "code", "language": "python", "text": "1 + 1"}],
        "id": "c",
        "model": "gpt-4o",
        **at,
        "chatgpt": {
            **usual,
            "recipient": "python",
            "metadata": {"model_slug": "gpt-4o", "finish_details": {"type": "stop"}},
        },
    }
    assert (tool["role"], tool["name"], tool["content"]) == ("tool", "python", "2")
    assert tool["chatgpt"]["author"] == {"metadata": {"a": 1}}
    assert image["content"] == [
        {"type": "image_asset_pointer", "asset_pointer": "f"},
        {"type": "text", "text": "Look."},
    ]


def test_placeholders_are_left_out(store, tmp_path):
    """Nodes without a message and silent system messages go; custom instructions do not."""
    custom = {"is_user_system_message": True, "user_context_message_data": {"about_user": "x"}}
    given = conversation(
        node("s", "root", "system", ""),
        node("u", "s", "system", "", metadata=custom),
        node("q", "u", "user", "Hello"),
        node("a", "q", "assistant", ""),
        node("e", "a", "system", ""),
        node("f", "a", "system", ""),
        current="e",
    )
    assert import_chatgpt(store, written(tmp_path / "x.json", [given])) == Imported(1, 0, 3, 4)
    assert [(each["role"], each["content"]) for each in shown(store, "c-1")] == [
        ("system", ""),
        ("user", "Hello"),
        ("assistant", ""),
    ]
    assert shown(store, "c-1")[0]["chatgpt"]["metadata"] == custom


@st.composite
def trees(draw) -> list[int]:
    """Draw a tree: the parent of each node, which came before it; -1 is the root."""
    return [draw(st.integers(-1, number - 1)) for number in range(draw(st.integers(1, 25)))]


def way(parents: list[int], end: int) -> list[str]:
    """Return the messages from the root to a node."""
    found: list[str] = []
    while end >= 0:
        found, end = [str(end), *found], parents[end]
    return found


@given(trees(), st.data(), st.integers(1, 3))
def test_every_end_of_every_tree_is_a_session(parents, data, depth_max):
    """Each end shows its way from the root; where branches may lie deep, nothing comes twice."""
    current = data.draw(st.integers(0, len(parents) - 1))
    nodes = [
        node(str(key), "root" if parent < 0 else str(parent), data.draw(st.sampled_from(ROLES)))
        for key, parent in enumerate(parents)
    ]
    order = data.draw(st.permutations(nodes))
    ends = {*range(len(parents))} - {*parents} | {current}
    with TemporaryDirectory() as place, EventStore.in_memory(max_depth=depth_max) as store:
        path = written(Path(place) / "x.json", [conversation(*order, current=str(current))])
        found = import_chatgpt(store, path)
        assert texts(store, "c-1") == way(parents, current)
        assert (found.sessions, found.branches) == (1, len(ends) - 1)
        told = {tuple(texts(store, session)) for session in store.sessions()}
        assert told == {tuple(way(parents, end)) for end in ends}
        assert found.messages >= len(parents)
        deepest = max(each.depth for each in BranchTree.of(store, "c-1").nodes.values())
        assert deepest <= depth_max
        if deepest < depth_max:
            assert found.messages == len(parents)
        assert verify(store, deep=True).sound


ROLES = ["user", "assistant"]


def test_files_of_an_export_come_in_one_by_one(store, tmp_path):
    """Conversations without an id are named by their file; what is in already is refused whole."""
    nameless = conversation(node("q", "root"), conversation_id=None)
    path = written(tmp_path / "conversations-000.json", [EDITED, nameless])
    import_file(store, path, "chatgpt")
    assert texts(store, "conversations-000-2") == ["q"]
    head = store.head()
    more = conversation(node("q", "root"), conversation_id="c-2")
    with pytest.raises(SessionExists, match="'c-1'"):
        import_file(store, written(tmp_path / "conversations-001.json", [more, EDITED]))
    assert store.head() == head


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([], "holds no conversation"),
        ([EDITED, {"title": "x"}], "entry 2 is no conversation: it has no mapping"),
        ([EDITED, 7], "entry 2 is no conversation"),
        (conversation(mapping=[]), "has an unexpected shape: Expected `object`, got `array`"),
        (conversation(mapping={"a": {"parent": 7}}), "has an unexpected shape"),
        (conversation(mapping={"a": {"message": {"id": "a"}}}), "message 'a' has no author with"),
        (conversation(node("a", "root", content=7)), "message 'a' has a content that is no object"),
        (conversation(node("a", "root", id=7)), "message id must be a string"),
        (conversation(node("a", "b"), node("b", "a")), "follow each other in a circle"),
        (
            conversation(node("a", "b"), node("b", "a"), current="a"),
            "follow each other in a circle",
        ),
        (conversation(node("a", "a")), "follow each other in a circle"),
        (conversation(node("a", "root"), conversation_id="x\x07"), "holds a control character"),
        (conversation(node("a", "root"), metadata=7), "metadata must be an object"),
    ],
    ids=str,
)
def test_a_bad_export_writes_nothing(store, tmp_path, given, what):
    """One line says what is wrong and where, and nothing is written."""
    path = written(tmp_path / "x.json", given)
    with pytest.raises(InvalidEvent) as caught:
        import_file(store, path, "chatgpt")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.head().size == 0


def test_a_store_without_branches_takes_no_other_ends(tmp_path):
    """Where no branch may be made the import is refused before anything is written."""
    path = written(tmp_path / "x.json", [EDITED])
    with EventStore.in_memory(max_depth=0) as store:
        with pytest.raises(DepthExceeded):
            import_chatgpt(store, path)
        assert store.head().size == 0


def test_a_parent_that_is_not_there_is_a_beginning(store, tmp_path):
    """Cut exports come in: what follows a message that is missing begins by itself."""
    given = conversation(node("a", "gone"), node("b", "a"), node("z", "lost"), current="b")
    assert json.loads(json.dumps(given)) == given
    assert import_chatgpt(store, written(tmp_path / "x.json", given)) == Imported(1, 1, 3, 5)
    assert texts(store, "c-1") == ["a", "b"]
    assert texts(store, "c-1-branch-1") == ["z"]
