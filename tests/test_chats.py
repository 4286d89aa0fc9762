"""Plain chat: every usual shape comes in, what is bad writes nothing, and it goes out as text."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talks import SECOND, frames, said, shown, written

from eventstore import (
    EventStore,
    EventStoreError,
    EventTooLarge,
    InvalidEvent,
    SessionDeleted,
    SessionExists,
)
from eventstore.audit.verify import verify
from eventstore.interchange import (
    Imported,
    detect_format,
    export_chat,
    export_chat_lines,
    export_markdown,
    import_chat,
    import_conversations,
    import_file,
    sources,
)
from eventstore.interchange.chat import time_of
from eventstore.interchange.intake import COMMIT_EVENTS
from eventstore.limits import APPEND_EVENTS_MAX, EVENT_BYTES_MAX, MIB
from eventstore.log import draft
from projections import SessionState

# -- plain chat ------------------------------------------------------------------------

HEADING = {
    "_type": "metadata",
    "created_at": "2026-02-03T04:05:06.123456789+08:00",
    "updated_at": "2026-02-03T05:00:00Z",
    "metadata": {"type": "dm", "pinned": True},
}
"""What session managers of bots write on the first line of a session's JSONL file."""

CHATS = {
    "one object": ([{"messages": [said("a"), said("b")]}], {"talk": ["a", "b"]}),
    "a name of its own": ([{"id": "x", "messages": [said("a")]}], {"x": ["a"]}),
    "a number for a name": ([{"id": 7, "messages": [said("a")]}], {"7": ["a"]}),
    "its session first": ([{"id": "x", "session": "y", "messages": []}], {"y": []}),
    "a list of messages": ([[said("a"), said("b")]], {"talk": ["a", "b"]}),
    "several conversations": (
        [[{"messages": [said("a")]}, {"id": "x", "messages": []}, {"messages": [said("b")]}]],
        {"talk-1": ["a"], "x": [], "talk-3": ["b"]},
    ),
    "lists in a list": ([[[said("a")], [said("b")]]], {"talk-1": ["a"], "talk-2": ["b"]}),
    "a message a line": ([said("a"), said("b")], {"talk": ["a", "b"]}),
    "a conversation a line": (
        [{"messages": [said("a")]}, {"id": "x", "messages": [said("b")]}],
        {"talk-1": ["a"], "x": ["b"]},
    ),
    "a single message": ([said("a")], {"talk": ["a"]}),
    "a heading and messages": ([HEADING, said("a"), said("b")], {"talk": ["a", "b"]}),
    "a heading with a key": ([HEADING | {"key": "dm:7"}, said("a")], {"dm:7": ["a"]}),
    "a heading alone": ([HEADING], {"talk": []}),
    "a heading at the end": ([said("a"), HEADING], {"talk": ["a"]}),
}


@pytest.mark.parametrize("shape", CHATS)
@pytest.mark.parametrize("indent", [None, 2])
def test_every_usual_shape_of_chat_is_understood(store, tmp_path, shape, indent):
    """Objects, lists and lines become one session each, named by themselves or by the file."""
    values, sessions = CHATS[shape]
    path = tmp_path / "talk.json"
    indent = indent if len(values) == 1 else None
    path.write_text("\ufeff" + "\n\n".join(json.dumps(each, indent=indent) for each in values))
    assert detect_format(path) == "chat"
    told = []
    found = import_file(store, path, progress=told.append)
    assert {name: [m["content"] for m in shown(store, name)] for name in sessions} == sessions
    assert sorted(store.sessions()) == sorted(sessions)
    assert found.sessions == len(sessions) and found.messages == sum(told)
    assert verify(store).sound


def test_a_conversation_keeps_what_else_it_carries(store, tmp_path):
    """Title, tools and anything else are metadata; metadata of its own goes first."""
    talk = {
        "id": "x",
        "title": "Hello",
        "tools": [{"name": "t"}],
        "metadata": {"tier": 1, "gone": None},
        "context": {"city": "Bonn"},
        "messages": [said("a", id="m1", extra={"deep": [1, 2.0, None]})],
    }
    path = written(tmp_path / "talk.json", talk)
    import_chat(store, path, actor="importer")
    state = SessionState.of(store, "x")
    assert state.metadata == {
        "source": "talk.json",
        "title": "Hello",
        "tools": [{"name": "t"}],
        "tier": 1,
    }
    assert state.context == {"city": "Bonn"}
    assert shown(store, "x") == talk["messages"]
    assert {each.actor for each in store.events("x")} == {"importer"}


@pytest.mark.parametrize(
    ("fields", "ns"),
    [
        ({"timestamp": "2018-05-02T19:38:15Z"}, 1_525_289_895 * SECOND),
        ({"created_at": "2018-05-02T21:38:15+02:00"}, 1_525_289_895 * SECOND),
        ({"ts": "2018-05-02T19:38:15.25"}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"ts": 1_525_289_895}, 1_525_289_895 * SECOND),
        ({"ts": 1_525_289_895.25}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"ts": 1_525_289_895_250}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"timestamp": None, "ts": 0}, 0),
        ({"ts": "yesterday"}, None),
        ({"ts": 1e300}, None),
        ({"ts": "9999-12-31T00:00:00Z"}, None),
        ({"ts": True}, None),
        ({"ts": {}}, None),
        ({}, None),
    ],
)
def test_times_in_messages_are_when_they_occurred(store, tmp_path, fields, ns):
    """The message itself stays as it was, whatever its time looks like."""
    message = said("a", **fields)
    assert time_of(message) == ns
    import_chat(store, written(tmp_path / "talk.json", [message]))
    assert store.event(1).occurred_at == ns
    assert shown(store, "talk") == [message]


def test_sessions_of_bots_come_in_unchanged(store, tmp_path):
    """A JSONL session of heading and messages: each message equal, the heading's values kept."""
    call = {"id": "c1", "name": "search", "params": {"q": "x"}}
    messages = [
        {"role": "user", "content": "hi", "timestamp": "2026-02-03T04:05:06.123456789+08:00"},
        {"role": "user", "content": "see", "media": [{"type": "image", "url": "u"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "found", "tool_call_id": "c1", "metadata": {"ttl": 60}},
        {"role": "assistant", "content": "done", "timestamp": "0001-01-01T00:00:00Z"},
    ]
    path = tmp_path / "agent_main_7.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [HEADING, *messages]))
    assert import_file(store, path).messages == len(messages)
    state = SessionState.of(store, "agent_main_7")
    assert shown(store, "agent_main_7") == messages
    assert state.metadata == {
        "source": path.name,
        "type": "dm",
        "pinned": True,
        "created_at": HEADING["created_at"],
        "updated_at": HEADING["updated_at"],
    }
    assert store.event(1).occurred_at == 1_770_062_706 * SECOND + 123_456_000
    assert store.event(5).occurred_at is None
    store.prune("agent_main_7", keep_last=2)
    assert [each.role for each in SessionState.of(store, "agent_main_7").messages] == [
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_conversation_longer_than_an_append_comes_whole(store, tmp_path):
    """It takes several appends and one commit."""
    messages = [said(str(number)) for number in range(APPEND_EVENTS_MAX + 5)]
    import_chat(store, written(tmp_path / "long.json", messages))
    assert shown(store, "long") == messages
    assert [count for _, count, *_ in frames(store)] == [APPEND_EVENTS_MAX, 6]


def test_a_document_larger_than_a_line_or_an_append_comes_whole(store, tmp_path, monkeypatch):
    """On one line it is a document all the same, and its conversation takes two appends."""
    monkeypatch.setattr(sources, "LINE_BYTES_MAX", 9 * MIB)
    monkeypatch.setattr(draft, "APPEND_BYTES_MAX", 9 * MIB)
    texts = [str(number) * MIB for number in range(10)]
    path = written(tmp_path / "long.json", [{"id": "a", "messages": [*map(said, texts)]}])
    assert import_file(store, path).messages == 10
    assert [message["content"] for message in shown(store, "a")] == texts
    assert [frame[1] for frame in frames(store)] == [8, 3]
    assert verify(store).sound
    with path.open("ab") as file:
        file.write(b'\n{"role": "user"}')
    with pytest.raises(InvalidEvent, match="line 1 has more than"):
        import_file(store, path)


TOO_MUCH = {
    "a message": {"messages": [said("fits"), said("x" * EVENT_BYTES_MAX)]},
    "metadata": {"messages": [], "metadata": {"a": "x" * EVENT_BYTES_MAX}},
    "half a surrogate": {"messages": [said("fits"), said("\ud800")]},
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_no_event_can_hold_stops_an_import_before_it_writes(store, tmp_path, what):
    """However many conversations come before it, none is in, and the error names the place."""
    talks = [{"id": f"t{number}", "messages": [said("hi")] * 100} for number in range(60)]
    place = "session 'last'" if what == "metadata" else "session 'last', message 2"
    path = written(tmp_path / "chat.json", [*talks, {"id": "last", **TOO_MUCH[what]}])
    if what == "half a surrogate":  # which no JSON that is read brings
        by_name = {each["id"]: each["messages"] for each in talks}
        with pytest.raises(InvalidEvent, match=place):
            import_conversations(store, {**by_name, "last": TOO_MUCH[what]["messages"]})
    else:
        with pytest.raises(EventTooLarge, match=f"{place}: event of .* over the limit"):
            import_file(store, path)
    assert store.head().size == 0


def test_an_import_that_fails_midway_leaves_whole_sessions(tmp_path):
    """What was committed before stays, and the error says how much that is."""
    many = {"messages": [said("hi")] * (COMMIT_EVENTS + 1_000)}
    late = {"messages": [said("fine"), said("uncounted")]}
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (many, many, late, many)))

    def count(fields) -> int:
        return -1 if fields["content"] == "uncounted" else 1

    with EventStore.open(tmp_path / "history", count_tokens=count) as store:
        with pytest.raises(
            InvalidEvent, match=r"2 whole sessions \(12000 messages\) were imported"
        ):
            import_chat(store, path)
        assert sorted(store.sessions()) == ["talk-1", "talk-2"]
        assert shown(store, "talk-2") == many["messages"]


def test_a_name_that_is_taken_meanwhile_stops_an_import_whole(store):
    """Of the commit that it would have been in nothing is written, what came before stays."""
    many = [said(str(number)) for number in range(6_000)]
    talks = {"first": many, "beside": [said("a")], "late": [said("b")]}
    with pytest.raises(SessionExists, match=r"'late' .*; 1 whole sessions"):
        import_conversations(store, talks, progress=lambda _: store.create("late"))
    assert sorted(store.sessions()) == ["first", "late"]
    assert shown(store, "late") == []


def test_an_import_goes_on_beside_other_writers(disk, tmp_path):
    """Sessions stay whole, appends of others land in between, and nobody waits for ever."""
    disk.create("busy")
    talks = [[said(f"{n}-{line}") for line in range(40)] for n in range(500)]
    path, stop = written(tmp_path / "talk.json", talks), threading.Event()

    def write() -> None:
        while not stop.is_set():
            disk.append("busy", said("meanwhile"))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for each in writers:
        each.start()
    try:
        assert import_chat(disk, path).sessions == 500
    finally:
        stop.set()
        for each in writers:
            each.join()
    assert disk.version("busy") > 0
    assert all(shown(disk, f"talk-{n + 1}") == talks[n] for n in range(0, 500, 50))
    assert verify(disk).sound


def test_conversations_in_memory_come_in_as_sessions(store):
    """Each has its messages, the metadata of all and the times its messages say."""
    talks = {"a": [said("hi"), said("hello", "assistant", timestamp=5)], "b": []}
    done = import_conversations(store, talks, metadata={"source": "app"})
    assert done == Imported(sessions=2, messages=2, events=4)
    assert shown(store, "a") == talks["a"]
    assert shown(store, "b") == []
    assert SessionState.of(store, "a").metadata == {"source": "app"}
    assert [each.occurred_at for each in store.events("a")] == [None, None, 5 * SECOND]


@pytest.mark.parametrize(
    ("talks", "error"),
    [
        ({"a": [said("x")], "taken": []}, SessionExists),
        ({"a": [said("x")], "": []}, InvalidEvent),
        ({"a": [said("x")], "b": "text"}, InvalidEvent),
        ({"a": [said("x")], "b": [{"content": "by nobody"}]}, InvalidEvent),
        ({"a": [said("x")], "b": [said("x"), 7]}, InvalidEvent),
    ],
)
def test_bad_conversations_in_memory_stop_all_of_them(store, talks, error):
    """A name that is taken or none, and what is no message, is an error before any fact."""
    store.create("taken")
    with pytest.raises(error):
        import_conversations(store, talks)
    assert list(store.sessions()) == ["taken"]


def test_names_that_are_taken_or_twice_stop_a_chat_before_it_writes(store, tmp_path):
    """Not even the conversations before it come in."""
    talks = [{"id": name, "messages": [said("a")]} for name in "abca"]
    path = written(tmp_path / "talk.json", talks)
    with pytest.raises(SessionExists, match="'a' comes twice in what is imported"):
        import_chat(store, path)
    assert store.head().size == 0
    store.create("c")
    with pytest.raises(SessionExists, match="'c'"):
        import_chat(store, written(path, talks[:3]))
    assert store.head().size == 1


DEEP = '{"role": "user", "content": ' + "[" * 100 + "]" * 100 + "}"
TWO_ENDS = {
    key: {"parent": "q" if key != "q" else None, "message": {"author": {"role": "user"}, "id": key}}
    for key in "qab"
}
BAD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "not JSON": (b"hello there", "is not JSON"),
    "half a document": (b'{"messages": [{"role": "user"', "is not JSON"),
    "not UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "UTF-8"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "UTF-8"),
    "a number": (b"42", "unexpected shape"),
    "a text": (b'"role"', "unexpected shape"),
    "an empty list": (b"[]", "neither our events nor chat"),
    "an empty object": (b"{}", "neither our events nor chat"),
    "something else": (b'{"a": 1}', "neither our events nor chat"),
    "numbers": (b"[1, 2]", "neither our events nor chat"),
    "not a number": (b'[{"role": "user", "content": NaN}]', "is not JSON"),
    "infinity": (b'[{"role": "user", "content": 1e999}]', "unexpected shape|is not JSON"),
    "a huge integer": (b'[{"role": "user", "content": 1' + b"0" * 30 + b"}]", "64 bits"),
    "deep": (f"[{DEEP}]".encode(), "nested deeper than 64"),
    "very deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply|not JSON"),
    "half a surrogate": (b'[{"role": "user", "content": "\\ud800"}]', "is not JSON"),
    "no role": (b'{"messages": [{"content": "a"}]}', "message 1: a message must say its role"),
    "a role that is none": (b'[{"role": 7}]', "role must be a string"),
    "a message that is none": (b'{"messages": [1]}', "must be a dict"),
    "messages that are none": (b'{"messages": {}}', "no list of messages"),
    "an id that is none": (b'[{"role": "user", "id": 7}]', "message id must be a string"),
    "metadata that is none": (b'{"messages": [], "metadata": 7}', "metadata must be an object"),
    "a bad line": (b'{"role": "user"}\n{"role": ', "line 2 is not JSON"),
    "a line of another kind": (b'{"role": "user"}\n{"messages": []}', "line 2 is no message"),
    "a heading of another type": (b'{"_type": "state", "a": 1}', "neither our events nor chat"),
    "a heading's metadata that is none": (
        b'{"_type": "metadata", "metadata": 7}\n{"role": "user"}',
        "metadata must be an object",
    ),
    "an empty name": (b'{"id": "", "messages": []}', "session id must not be empty"),
    "a name too long": (b'{"id": "' + b"x" * 256 + b'", "messages": []}', "256 bytes"),
    "a task without messages": (b'[{"task_id": 1, "traj": 3}]', "unexpected shape"),
    "a trial of no messages": (b'[{"task_id": 1, "traj": [3]}]', "must be a dict"),
    "a talk without times": (b'{"x": {"messages": [[{"text": "a"}]]}}', "unexpected shape"),
    "a talk of a bad name": (
        b'{"a\\u0000": {"messages": []}}',
        "conversation .*session id .*control",
    ),
    "a talk too late": (
        b'{"x": {"messages": [[{"text": "", "timestamp": "9999-01-01T00:00:00", "sender": "b"}]]}}',
        "conversation 'x': time",
    ),
    "a task's name too long": (
        b'[{"task_id": "' + b"x" * 999 + b'", "traj": []}]',
        "task .* bytes",
    ),
    "a tree's key too long": (
        b'{"mapping": {"' + b"x" * 999 + b'": {"message": {"author": 3}}}}',
        "message .*no author",
    ),
    "a branch's name too long": (
        json.dumps({"id": "x" * 250, "mapping": TWO_ENDS}).encode(),
        "file.json: session id has 259 bytes",
    ),
    "an event without its place": (
        b'{"position": 0, "session": "a", "version": 0, "event": {}}',
        "unexpected shape",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error_and_no_fact(tmp_path, kind):
    """Whatever is wrong, it is an InvalidEvent of one line, and the store stays empty."""
    content, what = BAD[kind]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with EventStore.in_memory() as store:
        with pytest.raises(InvalidEvent, match=what) as caught:
            import_file(store, path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        assert store.head().size == 0


@given(content=st.binary(max_size=200), pick=st.integers(0), byte=st.integers(0, 255))
def test_no_bytes_break_an_import(tmp_path_factory, content, pick, byte):
    """Random bytes, and good files with a byte changed, are refused or imported soundly."""
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    good = json.dumps(CHATS[list(CHATS)[pick % len(CHATS)]][0][0]).encode()
    place = pick % len(good)
    for each in (content, good[:place] + bytes([byte]) + good[place + 1 :], good[:place]):
        path.write_bytes(each)
        with EventStore.in_memory() as store:
            try:
                import_file(store, path)
            except EventStoreError:
                assert store.head().size == 0
            else:
                assert verify(store, deep=True).sound


@pytest.mark.parametrize("what", ["missing", "a directory"])
def test_what_is_no_file_is_refused(store, tmp_path, what):
    """A missing file and a directory are clear errors."""
    path = tmp_path / "missing" if what == "missing" else tmp_path
    with pytest.raises(InvalidEvent, match=r"can't be read|no regular file"):
        import_file(store, path)


def test_an_unknown_format_is_refused(store, tmp_path):
    """The error lists the formats there are."""
    with pytest.raises(InvalidEvent, match="auto, jsonl, chat, sharegpt, chatgpt, tau, chitchat"):
        import_file(store, tmp_path / "x", "yaml")


# -- transcripts -----------------------------------------------------------------------


def test_exported_chat_can_be_imported_again(store, tmp_path):
    """Messages, metadata, context and name survive the way out and in."""
    context = {"city": "Bonn", "trip": {"back": None, "days": [None, 3]}}
    store.create("a", metadata={"topic": "x"}, context=context)
    store.append("a", [said("one"), said("two", "assistant", tool_calls=[{"id": "c"}])])
    path = written(tmp_path / "a.json", export_chat(store, "a"))
    with EventStore.in_memory() as other:
        import_file(other, path)
        assert shown(other, "a") == shown(store, "a")
        state = SessionState.of(other, "a")
        assert state.metadata == {"source": "a.json", "topic": "x"}
        assert state.context == context


def test_chat_shows_what_is_visible_at_a_moment(store):
    """Pruned messages are not exported; with a version they are still there."""
    store.create("a")
    store.append("a", [said("one"), said("two"), said("three")])
    store.prune("a", keep_last=1)
    assert export_chat(store, "a")["messages"] == [said("three")]
    assert len(export_chat(store, "a", at_version=3)["messages"]) == 3
    assert [json.loads(line) for line in export_chat_lines(store, "a")] == [said("three")]
    store.delete("a")
    with pytest.raises(SessionDeleted):
        export_chat(store, "a")
    assert export_chat(store, "a", at_version=3)["session"] == "a"


def test_markdown_reads_like_the_conversation(store):
    """Who, when, text, tool calls with their arguments, results, and parts that are no text."""
    store.create("a", metadata={"topic": "x", "n": [1]})
    call = {"id": "c", "function": {"name": "find", "arguments": '{"q": 1}'}}
    picture = {"type": "image_url", "image_url": {"url": "http://x"}}
    store.append(
        "a",
        [
            said("Hello", name="Ann"),
            said(None, "assistant", tool_calls=[call]),
            said("```found```", "tool"),
            {"role": "user", "content": [{"type": "text", "text": "See"}, picture]},
        ],
        occurred_at=0,
    )
    text = export_markdown(store, "a")
    for wanted in (
        "# a\n",
        "4 messages",
        "- **topic**: x\n- **n**: [1]",
        "## 1. user (Ann) · 1970-01-01 00:00:00 UTC\n\nHello",
        'Calls `find`:\n\n```json\n{"q": 1}\n```',
        "````\n```found```\n````",
        "See\n\n```json\n",
    ):
        assert wanted in text


@given(st.text("`ab\n", max_size=30))
def test_no_tool_result_breaks_out_of_its_block(text):
    """The fence is longer than any run of backticks in it."""
    with EventStore.in_memory() as store:
        store.create("a")
        store.append("a", said("x" + text, "tool"))
        lines = export_markdown(store, "a").rstrip("\n").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("```"))
    fence = lines[start]
    assert lines[-1] == fence
    assert not any(line.startswith(fence) for line in lines[start + 1 : -1])
