"""What commands do: each mutation writes its fact, bad input none, and looking shows it all."""

import json
import re
import subprocess

import pytest
from commands import COMMAND, ENVIRONMENT, LINES, READS, Cli, on_screen

from eventstore import EventStore
from eventstore.clock import to_datetime
from eventstore.place import volume
from projections import SessionState

# -- every mutation --------------------------------------------------------------------


def test_a_mutation_prints_its_receipt(cli: Cli):
    """With --json the receipt has the library's fields; for people it is one line."""
    receipt = cli.fine("create", "a", "--json").json
    assert receipt == {
        "session": "a",
        "first_version": 0,
        "version": 0,
        "position": 0,
        "recorded_at": receipt["recorded_at"],
        "tree_size": 1,
        "duplicate": False,
    }
    assert "version 1, position 1" in cli.fine("append", "a", "--content", "x").out


MUTATIONS = [
    (["append", "a", "--role", "assistant", "--content", "four"], "MessageAppended"),
    (["branch", "a", "b", "--at", "2", "--name", "again", "--description", "d"], "BranchCreated"),
    (["prune", "a", "--keep-last", "1", "--reason", "short"], "MessagesPruned"),
    (["prune", "a", "--message", "a#2"], "MessagesPruned"),
    (["prune", "a", "--before", "2100-01-01T00:00:00Z"], "MessagesPruned"),
    (["summarize", "a", "they counted", "--upto", "2"], "HistorySummarized"),
    (["summarize", "a", "they counted", "--upto", "a#2"], "HistorySummarized"),
    (["meta", "a", "topic=null", "pinned=true", 'tags=["x"]'], "MetadataUpdated"),
    (["set-context", "a", "step=4"], "ContextSet"),
    (["record", "a", "shop.paid", '{"cents": 3}'], "Custom"),
    (["record-tool-call", "a", "search", "--arguments", '{"q": 1}'], "ToolCallRecorded"),
    (["record-error", "a", "timeout", "too slow", "--detail", "[1]"], "ErrorRecorded"),
    (["rewind", "a", "1"], "SessionRewound"),
    (["undo", "a"], "SessionRewound"),
    (["close", "a", "--reason", "done"], "SessionClosed"),
    (["archive", "a"], "SessionArchived"),
    (["delete", "a"], "SessionDeleted"),
    (["extend-ttl", "a", "2h"], "TtlExtended"),
    (["extend-ttl", "a", "never"], "TtlExtended"),
]


@pytest.mark.parametrize(("arguments", "kind"), MUTATIONS, ids=lambda each: str(each)[:30])
def test_each_mutation_records_one_fact_as_its_options_say(
    chat: Cli, arguments: list[str], kind: str
):
    """Every mutation takes actor, ids, key and expected version, and writes its kind of fact."""
    options = ["--actor", "me", "--correlation-id", "c1", "--causation-id", "c2", "--key", "k1"]
    receipt = chat.fine(*arguments, *options, "--expected", "3", "--json").json
    fact = chat.fine("log", "--from", str(receipt["position"]), "--json").json
    assert fact["type"] == kind
    assert fact["session"] == receipt["session"]
    assert (fact["actor"], fact["correlation_id"], fact["causation_id"]) == ("me", "c1", "c2")
    again = chat.fine(*arguments, *options, "--expected", "3", "--json").json
    assert again == {**receipt, "duplicate": True}


def test_what_mutations_do_shows(chat: Cli):
    """Branch, append, merge, prune and undo from the command line give the state they should."""
    chat.fine("branch", "a", "b", "--at", "1")
    chat.fine("append", "b", "--content", "other")
    assert chat.texts("b") == ["one", "other"]
    chat.fine("merge", "b", "--into", "a")
    assert chat.texts("a") == ["one", "two", "three", "other"]
    chat.fine("prune", "a", "--keep-last", "1")
    assert chat.texts("a") == ["other"]
    chat.fine("undo", "a")
    assert chat.texts("a") == ["one", "two", "three", "other"]
    assert chat.texts("a", "--at-version", "2") == ["one", "two"]
    chat.fine("summarize", "a", "counted", "--upto", "3")
    assert chat.texts("a") == ["counted", "other"]
    squash = ("--strategy", "squash", "--summary", "in short")
    chat.fine("append", "b", "--content", "more")
    chat.fine("merge", "b", "--into", "a", *squash)
    assert chat.texts("a") == ["counted", "other", "in short"]


def test_metadata_and_context_take_json_or_text(chat: Cli):
    """key=value is JSON where it parses, else text; null removes."""
    chat.fine("meta", "a", "n=null", "x=1.5", "y=[1]", "z=hello = world", "w=NaN")
    chat.fine("set-context", "a", "step={}")
    shown = chat.fine("show", "a", "--json").json
    assert shown["metadata"] == {
        "topic": "python",
        "x": 1.5,
        "y": [1],
        "z": "hello = world",
        "w": "NaN",
    }
    assert shown["context"] == {"step": {}}


def test_show_tells_when_and_where_each_message_was_recorded(chat: Cli):
    """People see times where they ask for them, machines have the fact behind each message."""
    chat.fine("branch", "a", "b")
    chat.fine("append", "b", "--content", "later", "--actor", "user:7")
    with EventStore.open(chat.store, read_only=True) as store:
        newest = list(store.events("b"))[-1]
    shown = chat.fine("show", "b", "--json", "--last", "2").json
    assert [each["session"] for each in shown["places"]] == ["a", "b"]
    assert shown["places"][-1] == {
        "session": "b",
        "version": 1,
        "position": newest.position,
        "recorded_at": newest.recorded_at,
        "occurred_at": None,
        "actor": "user:7",
    }
    said = to_datetime(newest.recorded_at).strftime("%Y-%m-%d %H:%M:%SZ")
    assert f"1  {said}" in chat.fine("show", "b", "--times").out
    assert f"1  {said}" not in chat.fine("show", "b").out


def test_create_takes_all_that_a_session_is_made_with(cli: Cli):
    """Options of create land in the session; without a name it gets one."""
    made = cli.fine(
        *("create", "--user", "7", "--ttl", "12h", "--max-messages", "9", "--token-limit", "100"),
        *("--template", "dm", "--context", "step=1", "--meta", "a=b", "--json"),
    ).json
    shown = cli.fine("show", made["session"], "--json").json
    assert (shown["user"], shown["ttl"], shown["max_messages"]) == ("7", 43_200, 9)
    assert (shown["token_limit"], shown["template"]) == (100, "dm")
    assert (shown["context"], shown["metadata"]) == ({"step": 1}, {"type": "dm", "a": "b"})
    assert "no template 'magic'" in cli.refused(2, "create", "--template", "magic")


# -- append from stdin -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [LINES, json.dumps([json.loads(x) for x in LINES.split(b"\n") if x]).encode()]
)
def test_stdin_is_one_append(chat: Cli, given: bytes):
    """JSON lines, or a JSON array, on stdin become one atomic append, untouched."""
    receipt = chat.fine("append", "a", "--json", stdin=given).json
    assert (receipt["first_version"], receipt["version"]) == (4, 5)
    shown = chat.fine("show", "a", "--last", "1", "--json").json
    assert shown["messages"] == [
        {"id": "a#5", "role": "assistant", "content": "ho", "x": [1, {"y": None}]}
    ]


BAD_STDIN = {
    "empty": b"",
    "not JSON": b"hello\n",
    "second line cut": LINES + b'{"role": "user", "cont',
    "not UTF-8": b'{"role":"user","content":"\xff\xfe"}\n',
    "no object": b'{"role":"user","content":"x"}\n3\n',
    "NaN": b'{"role":"user","content":NaN}\n',
    "too large a number": b'{"x":' + b"9" * 5_000 + b"}\n",
    "infinite": b'{"x":1e999}\n',
    "lone surrogate": b'{"role":"user","content":"\\ud800"}\n',
    "nested 100 deep": b'{"x":' + b"[" * 100 + b"]" * 100 + b"}\n",
    "nested 100,000 deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "role no text": b'{"role":3}\n',
    "array of texts": b'["a","b"]',
    "huge": b'{"content":"' + b"x" * (9 << 20) + b'"}\n',
}


@pytest.mark.parametrize("name", BAD_STDIN)
def test_bad_stdin_writes_nothing(chat: Cli, name: str):
    """Whatever is wrong in any line, exit 2, one line says so, and no message of it is kept."""
    chat.refused(2, "append", "a", stdin=BAD_STDIN[name])


# -- looking ---------------------------------------------------------------------------


def test_show_reaches_every_moment(chat: Cli):
    """By version, by position and by time: the messages that were current then."""
    facts = chat.fine("log", "a", "--json").lines
    for fact in facts:
        expected = ["one", "two", "three"][: fact["version"]]
        assert chat.texts("a", "--at-version", str(fact["version"])) == expected
        assert chat.texts("a", "--at-position", str(fact["position"])) == expected
        assert chat.texts("a", "--at-time", str(fact["recorded_at"])) == expected
    assert chat.texts("a", "--last", "2") == ["two", "three"]


def test_people_see_the_newest_messages_first_asked(chat: Cli, monkeypatch: pytest.MonkeyPatch):
    """A screen has the last 20 messages and how many came before; a pipe has them all."""
    chat.fine("append", "a", stdin=b"".join(b'{"content":"line %d"}\n' % n for n in range(30)))
    assert "line 0" in chat.fine("show", "a").out
    on_screen(monkeypatch, 80)
    shown = chat.fine("show", "a").out
    assert "13 earlier messages" in shown
    assert "line 29" in shown
    assert "line 9 " not in shown
    assert "line 0" in chat.fine("show", "a", "--all").out


def test_a_screen_shows_the_first_of_many(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Of many sessions, tools and errors a screen has the first and says so; a pipe has all."""
    with EventStore.open(cli.store) as store:
        for number in range(60):
            store.create(f"s{number}")
            store.record_tool_call("s0", f"tool {number}")
            store.record_error("s0", f"error {number}")
    lists = ("sessions", "stats")
    piped = {each: len(cli.fine(each).out.splitlines()) for each in lists}
    assert len(cli.fine("sessions", "--json").lines) == 60 and piped["sessions"] == 61
    on_screen(monkeypatch, 80)
    assert "the first 50; --limit and --all show more" in cli("sessions").err
    assert cli.fine("stats").out.count("… 48 more") == 2
    assert piped["stats"] - len(cli.fine("stats").out.splitlines()) == 2 * 47
    assert len(cli.fine("sessions", "--json").lines) == 60


def test_facts_say_their_times_as_times(cli: Cli):
    """When a session expires is a time for people; a tool without a duration has no average."""
    cli.fine("create", "a", "--ttl", "12h")
    with EventStore.open(cli.store, read_only=True) as store:
        expires = to_datetime(SessionState.of(store, "a").header.expires_at)
    assert f"expires_at: {expires:%Y-%m-%d %H:%M:%SZ}" in cli.fine("log").out
    cli.fine("record-tool-call", "a", "search")
    assert re.search(r"search +1 +0 +-$", cli.fine("stats").out, re.MULTILINE)


def test_log_lists_facts_in_order(chat: Cli):
    """log: all or one session, from a place, some types, newest first, a limit."""
    chat.fine("branch", "a", "b")
    facts = chat.fine("log", "--json").lines
    assert [fact["position"] for fact in facts] == list(range(5))
    assert facts[1]["event"] == {
        "type": "MessageAppended",
        "message": {"fields": {"role": "user", "content": "one"}, "id": "a#1"},
        "tokens": 1,
    }
    assert [fact["version"] for fact in chat.fine("log", "a", "-r", "-n2", "--json").lines] == [
        3,
        2,
    ]
    kinds = chat.fine("log", "--type", "BranchCreated", "--json").lines
    assert [fact["session"] for fact in kinds] == ["b"]
    assert "BranchCreated" in chat.fine("log").out


def test_tail_begins_with_the_newest(chat: Cli):
    """Tail -n: the newest facts, oldest of them first."""
    assert [fact["position"] for fact in chat.fine("tail", "-n2", "--json").lines] == [2, 3]
    assert [fact["version"] for fact in chat.fine("tail", "a", "-n1", "--json").lines] == [3]
    assert "three" in chat.fine("tail").out


def test_sessions_are_listed_and_filtered(chat: Cli):
    """sessions: newest first; by user, metadata and status; archived ones only when asked for."""
    chat.fine("create", "b", "--user", "7")
    chat.fine("create", "c")
    chat.fine("archive", "c")
    names = [row["session"] for row in chat.fine("sessions", "--json").lines]
    assert names == ["b", "a"]
    for option, name in (("--user=7", "b"), ("--where=n=3", "a"), ("--status=archived", "c")):
        rows = chat.fine("sessions", option, "--json").lines
        assert [row["session"] for row in rows] == [name]
    assert "archived" in chat.fine("sessions", "--status", "archived").out
    assert "the first 1" in chat("sessions", "-n1").err


def test_a_text_is_found(chat: Cli, monkeypatch: pytest.MonkeyPatch):
    """search: messages and metadata, whatever the case; a screen has the first; exit 1 for none."""
    chat.fine("append", "a", stdin=b"".join(b'{"content":"Line %d"}\n' % n for n in range(30)))
    chat.fine("create", "b", "--user", "7", "--meta", "title=In line")
    found = chat.fine("search", "line", "--json").lines
    assert len(found) == 31
    assert (found[0]["session"], found[0]["key"], found[0]["message"]) == ("b", "title", None)
    assert found[1]["message"] == {"id": "a#33", "content": "Line 29"}
    assert len(chat.fine("search", "line", "--user", "7", "--json").lines) == 1
    assert "a#33   Line 29" in chat.fine("search", "LINE 29").out
    assert (chat("search", "nowhere").code, chat("search", "nowhere").out) == (1, "")
    chat.refused(2, "search", " ")
    assert chat("search", "line 29", "-n1").err == ""
    assert chat("search", "line", "-n1", "--user", "7").err == ""
    on_screen(monkeypatch, 80)
    shown = chat("search", "line")
    assert len(shown.out.splitlines()) == 21
    assert "the first 20; --limit shows more" in shown.err


def test_what_is_put_away_is_searched_where_asked_for(chat: Cli):
    """A text is looked for where sessions are listed: in archived ones only with --status."""
    chat.fine("archive", "a")
    assert chat("search", "two").code == 1
    assert "two" in chat.fine("search", "two", "--status", "archived").out
    assert "active" in chat.refused(2, "search", "two", "--status", "gone")


def test_names_are_whole_where_there_is_room(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """A list has whole names in 80 columns, and in few columns names and what fits beside them."""
    name = cli.fine("create", "--json").json["session"]
    assert len(name) == 36
    on_screen(monkeypatch, 80)
    assert name in cli.fine("sessions").out
    on_screen(monkeypatch, 40)
    head, row = cli.fine("sessions").out.splitlines()
    assert head.split() == ["session", "status", "updated"]
    assert row.startswith(name[:7])
    assert row.split()[1] == "active"


def test_an_expired_session_is_shown_as_one(cli: Cli):
    """Lists and `show` say that a session is past its time, whatever its status is."""
    cli.fine("create", "a", "--ttl", "0.001")
    cli.fine("create", "b", "--ttl", "1h")
    rows = [line.split()[:2] for line in cli.fine("sessions").out.splitlines()[1:]]
    assert sorted(rows) == [["a", "expired"], ["b", "active"]]
    assert "expired  " in cli.fine("show", "a").out
    assert "expires  " in cli.fine("show", "b").out


def test_a_receipt_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """What a terminal can't hold goes on below without a break, so that it is copied whole."""
    on_screen(monkeypatch, 40)
    told = cli.fine("create").out
    assert told.count("\n") == 1
    assert "version 0, position 0, " in told


def test_tree_shows_branches_and_merges(chat: Cli):
    """tree: drawn from any member; with --at-position as it was."""
    chat.fine("branch", "a", "b", "--at", "1", "--name", "again")
    chat.fine("append", "b", "--content", "x")
    receipt = chat.fine("merge", "b", "--into", "a", "--json").json
    drawn = chat.fine("tree", "b").out
    assert "└── b  2 messages" in drawn
    assert "“again”, from version 1" in drawn
    assert "merged into a at version 4, by append" in drawn
    found = chat.fine("tree", "a", "--json").json
    assert [node["session"] for node in found["nodes"]] == ["a", "b"]
    before = str(receipt["position"] - 1)
    assert chat.fine("tree", "a", "--at-position", before, "--json").json["merges"] == []


def test_diff_compares_sessions_and_moments(chat: Cli):
    """diff: A and B, or SESSION@VERSION on either side."""
    chat.fine("branch", "a", "b", "--at", "2")
    chat.fine("append", "b", "--content", "other")
    found = chat.fine("diff", "a", "b", "--json").json
    assert (found["common"], found["shared"]) == (2, 2)
    assert found["only_b"] == [{"id": "b#1", "role": "user", "content": "other"}]
    drawn = chat.fine("diff", "a@1", "a").out
    assert "+ user: two" in drawn
    assert "no difference" in chat.fine("diff", "a", "a@3").out


def test_blame_names_the_fact_behind_each_message(chat: Cli):
    """blame: position and actor of every visible message and value."""
    chat.fine("append", "a", "--content", "four", "--actor", "me")
    found = chat.fine("blame", "a", "--json").json
    assert [each["origin"]["position"] for each in found["messages"]] == [1, 2, 3, 4]
    assert found["messages"][3]["origin"]["actor"] == "me"
    assert "metadata.topic" in chat.fine("blame", "a").out


def test_stats_count(chat: Cli):
    """stats: of the store, of a session, and of a past moment."""
    chat.fine("create", "b")
    assert chat.fine("stats", "--json").json["messages"] == 3
    assert chat.fine("stats", "b", "--json").json["messages"] == 0
    assert chat.fine("stats", "--at-position", "1", "--json").json["messages"] == 1
    assert "messages by role" in chat.fine("stats").out


def test_what_is_in_a_store_can_not_command_the_terminal(chat: Cli):
    """Escape sequences, direction overrides and markup in messages come out as plain marks."""
    chat.fine("append", "a", "--content", "\x1b[2J\x9b1m \u202e gnp [red]not red[/red] \r\x08")
    chat.fine("meta", "a", "k=\x1b]0;title\x07")
    for arguments in (["show", "a"], ["log"], ["tail"], ["blame", "a"], ["diff", "a@1", "a"]):
        out = chat.fine(*arguments).out
        assert not {"\x1b", "\x9b", "\u202e", "\r", "\x08", "\x07"} & set(out)
    assert "[red]not red[/red]" in chat.fine("show", "a").out


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals_are_enough(
    chat: Cli, arguments: list[str], width: int, monkeypatch: pytest.MonkeyPatch
):
    """No line is wider than the terminal."""
    on_screen(monkeypatch, width)
    chat.fine("branch", "a", "b", "--name", "a rather long name of a branch")
    chat.fine("append", "a", stdin=json.dumps({"content": "word " * 60}).encode())
    out = chat.fine(*arguments).out
    assert max(len(line) for line in out.splitlines()) <= width


@pytest.mark.parametrize(
    "arguments",
    [
        "log --limit",
        "log a --limit",
        "log --from",
        "sessions --limit",
        "show a --last",
        "tail --last",
        "search one --limit",
        "prune a --keep-last",
    ],
)
def test_endless_numbers_are_as_good_as_all(chat: Cli, arguments: str):
    """A limit beyond any store's is no error: there is just no more to give."""
    chat.fine(*arguments.split(), str(10**30))


def test_looking_goes_on_where_the_disk_is_full(chat: Cli, monkeypatch: pytest.MonkeyPatch):
    """Without room for views they are made in memory; what would write is refused."""
    before = chat.fine("sessions").out
    monkeypatch.setattr(volume, "free_bytes", lambda _: 1_000)
    for arguments in [*READS[:6], ["stats"], ["templates"]]:
        assert chat.fine(*arguments).out
    assert chat.fine("sessions").out == before
    assert "free some space" in chat.refused(2, "append", "a", "--content", "x")


LONG = "telegram:" + "1234567890" * 6 + ":a long name"


def test_what_is_piped_is_whole(chat: Cli):
    """Where stdout is no terminal names and texts are whole, in lines without blanks after."""
    text = "word " * 500 + "end"
    chat.fine("create", LONG)
    chat.fine("append", LONG, "--content", text, "--actor", f"user:{LONG}")
    chat.fine("branch", LONG, f"{LONG} again", "--name", f"name {LONG}")
    chat.fine("append", f"{LONG} again", "--content", f"also {text}")
    chat.fine("merge", f"{LONG} again", "--into", LONG)
    chat.fine("record-error", LONG, f"kind {LONG}", text)
    whole = {
        ("sessions",): (f"{LONG}  ", f"└ of {LONG}"),
        ("log",): (f"{LONG}@1", f"user: {text}", f"user: also {text}"),
        ("tail",): (f"{LONG}@1", f"user: also {text}"),
        ("show", LONG): (f"user  {text}", f"{LONG} again@1  user  also {text}"),
        ("tree", LONG): (f"{LONG}  2 messages", f"“name {LONG}”", f"merged into {LONG} at"),
        ("diff", f"{LONG}@1", LONG): (f"+++ {LONG}@", f"+ user: also {text}"),
        ("blame", LONG): (f"user: {text}  {LONG}@1", f"by merge at {LONG}@", f"user:{LONG}"),
        ("stats",): (f"kind {LONG}",),
        ("context", LONG): (f"user  {text}",),
        ("prune-sessions", "--strategy", "lru", "--max-sessions", "1"): (LONG,),
    }
    for arguments, parts in whole.items():
        lines = chat.fine(*arguments).out.splitlines()
        for part in parts:
            assert any(part in line for line in lines), (arguments, part)
        assert not [line for line in lines if line != line.rstrip()], arguments
        assert not [line for line in lines if "…" in line], arguments
    with EventStore.open(chat.store, read_only=True) as store:
        newest = to_datetime(store.head().recorded_at).strftime("%Y-%m-%d %H:%M:%SZ")
    for command in ("log", "tail", "sessions"):
        assert newest in chat.fine(command).out, command
    assert newest[:10] in chat.fine("blame", LONG).out


def test_a_pipe_is_no_terminal_whatever_columns_says(chat: Cli):
    """COLUMNS is about a screen; a process of its own that writes into a pipe cuts nothing."""
    chat.fine("append", "a", "--content", "word " * 40 + "end")
    line = [*COMMAND, "--store", str(chat.store), "log", "a"]
    environment = {**ENVIRONMENT, "COLUMNS": "40"}
    ended = subprocess.run(line, env=environment, capture_output=True, check=True)
    assert ended.stdout.decode().splitlines()[-1].endswith("word word end")


@pytest.mark.parametrize("screen", [True, False])
def test_a_name_is_never_markup(chat: Cli, screen: bool, monkeypatch: pytest.MonkeyPatch):
    """A session whose name looks like markup is shown as it is called, on a screen or not."""
    if screen:
        on_screen(monkeypatch, 80)
    chat.fine("create", "[/a]")
    chat.fine("append", "[/a]", "--content", "one")
    chat.fine("branch", "[/a]", "[red]b")
    looks = (["show", "[red]b"], ["log"], ["tree", "[/a]"], ["sessions"], ["blame", "[/a]"])
    for arguments in looks:
        assert "[/a]" in chat.fine(*arguments).out
