"""The context window: what is always in it, what fits, what belongs together, and both shapes."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from facts import JSON
from hypothesis import given
from hypothesis import strategies as st
from play import SHAPES, STEPS, Play, call, results, said

from eventstore import EventStore, InvalidEvent, Message, SessionDeleted
from eventstore.messages import calls_answered, calls_made, count_tokens
from eventstore.sessions.context import ORPHANS_MAX, Window, build_context, check_room
from eventstore.sessions.marks import is_important, marks_of
from eventstore.sessions.shapes import OPENING, to_anthropic, to_openai
from projections import SessionState

BUDGETS = st.none() | st.integers(1, 120)
LASTS = st.none() | st.integers(0, 30)


# -- the plain model -------------------------------------------------------------------------


class Line(NamedTuple):
    message: Message
    tokens: int
    note: bool

    @property
    def made(self) -> set[str]:
        return calls_made(self.message.fields)

    @property
    def answered(self) -> set[str]:
        return calls_answered(self.message.fields)


def lines_of(state: SessionState) -> list[Line]:
    """Return every visible line; these stores count four characters a token."""
    return [
        Line(message, count_tokens(message.fields), "summary" in message.metadata)
        for message in state.messages
    ]


def tied(lines: list[Line], index: int) -> Iterator[int | None]:
    """Iterate over the lines that one line needs; None stands for one that is not there."""
    for wanted in lines[index].answered:
        yield next((i for i in reversed(range(index)) if wanted in lines[i].made), None)
    for wanted in lines[index].made:
        found = None
        for later in range(index + 1, len(lines)):
            if wanted in lines[later].answered:
                found = later
            if wanted in lines[later].answered | lines[later].made:
                break
        yield found


def group(lines: list[Line], index: int) -> set[int] | None:
    """Return all lines that one needs, directly or not; None where one of them is missing."""
    found: set[int | None] = set()
    more: set[int | None] = {index}
    while more and None not in more:
        found |= more
        more = {each for one in more for each in tied(lines, one)} - found
    return None if None in more else found


def always(lines: list[Line]) -> set[int]:
    """Return the system prompt and the important messages."""
    found = {i for i, line in enumerate(lines) if is_important(line.message.fields)}
    for index, line in enumerate(lines):
        if line.note or line.message.role not in ("system", "developer"):
            break
        found.add(index)
    return {index for index in found if not lines[index].note}


def modelled(lines, budget, last, summaries) -> list[int] | None:
    """Return the indexes of a window, or None where it can't be: all of it read, nothing clever."""
    room = float("inf") if budget is None else budget

    def cost(indexes):
        return sum(lines[each].tokens for each in indexes)

    fixed = always(lines)
    taken = set().union(*(group(lines, each) or set() for each in fixed))
    if cost(taken) > room:
        return None
    notes = [index for index, line in enumerate(lines) if line.note]
    for index in reversed(notes if summaries else []):
        if cost(taken | {index}) > room:
            break
        taken |= {index}
    others = [i for i in range(len(lines)) if i not in fixed and i not in notes]
    others = [i for i in others if group(lines, i) is not None]
    others = others if last is None else others[max(len(others) - last, 0) :]
    for index in reversed(others):
        more = taken | (group(lines, index) or set())
        if cost(more) > room:
            break
        taken = more
    return sorted(taken)


def no_orphans(messages: list[Message]) -> bool:
    """Return True if each call is followed by its result and each result preceded by its call."""
    lines = [Line(each, 0, note=False) for each in messages]
    return all(None not in tied(lines, index) for index in range(len(lines)))


# -- laws ------------------------------------------------------------------------------------


@given(steps=STEPS, budget=BUDGETS, last=LASTS, summaries=st.booleans())
def test_a_window_is_what_the_plain_model_says(steps, budget, last, summaries):
    """Never an orphan, never over the budget, nothing exempt dropped, and all that fits is in."""
    with EventStore.in_memory() as store:
        play = Play(store)
        for step in steps:
            play.do(*step)
        lines = lines_of(SessionState.of(store, play.session))
        expected = modelled(lines, budget, last, summaries)
        if expected is None:
            with pytest.raises(InvalidEvent, match=f"the budget is {budget}"):
                build_context(store, play.session, budget, last, summaries)
            return
        window = build_context(store, play.session, budget, last, summaries)
    assert [each.index for each in window.chosen] == expected
    assert [each.to_dict() for each in window.messages] == [
        lines[index].message.to_dict() for index in expected
    ]
    assert no_orphans(window.messages)
    assert window.tokens == sum(lines[index].tokens for index in expected)
    assert budget is None or window.tokens <= budget
    whole = {index for index in always(lines) if group(lines, index) is not None}
    assert whole <= {each.index for each in window.chosen}
    assert len(window) + sum(each.messages for each in window.left) == len(lines)
    assert window.tokens + sum(each.tokens for each in window.left) == sum(
        line.tokens for line in lines
    )


@given(steps=STEPS, budget=BUDGETS)
def test_the_past_shows_what_was_built_then(steps, budget):
    """By version, by position and by time, a window is the one that was built at that moment."""
    ticks = iter(range(10**18, 2 * 10**18, 10**9))
    with EventStore.in_memory(clock=lambda: next(ticks)) as store:
        play = Play(store)
        built = []
        for step in steps:
            play.do(*step)
            built.append((play.session, store.log.size() - 1, window_or_none(store, play, budget)))
        for session, position, window in built:
            if window is None:
                continue
            time = store.event(position).recorded_at
            for moment in (
                {"at_version": window.version},
                {"at_position": position},
                {"at_time": time},
            ):
                assert build_context(store, session, budget, **moment) == window


def window_or_none(store: EventStore, play: Play, budget: int | None) -> Window | None:
    """Return the window, None where the exempt are over the budget."""
    try:
        return build_context(store, play.session, budget)
    except InvalidEvent:
        return None


@given(steps=STEPS, last=LASTS)
def test_both_shapes_obey_their_providers(steps, last):
    """OpenAI's and Anthropic's rules hold, orphans or not, and both make the window's calls."""
    with EventStore.in_memory() as store:
        play = Play(store)
        for step in steps:
            play.do(*step)
        window = build_context(store, play.session, None, last)
        everything = [each.fields for each in SessionState.of(store, play.session).messages]
        check_openai(to_openai(everything))
        check_anthropic(to_anthropic(everything))
    openai, anthropic = window.to_openai(), window.to_anthropic()
    check_openai(openai)
    check_anthropic(anthropic)
    made = [each["id"] for message in openai for each in message.get("tool_calls", ())]
    assert made == [
        part["id"]
        for message in anthropic["messages"]
        for part in message["content"]
        if part["type"] == "tool_use"
    ]
    assert sorted(made) == sorted(c for m in window.messages for c in calls_made(m.fields))
    check_openai(to_openai(anthropic["messages"]))
    check_anthropic(to_anthropic(openai))
    assert to_anthropic(openai) == anthropic


@given(messages=st.lists(st.dictionaries(st.sampled_from(["role", "content", "name"]), JSON)))
def test_shapes_take_any_json(messages):
    """Messages of any JSON come out in shapes that obey the rules, and are not changed."""
    before = repr(messages)
    check_openai(to_openai(messages))
    check_anthropic(to_anthropic(messages))
    assert repr(messages) == before


@pytest.mark.parametrize("wrong", [[5], [None], 5, [Message({"role": "user"}, "m")]])
def test_shapes_take_nothing_but_dicts(wrong):
    """What is no list of messages as they were recorded is refused by both."""
    for shape in (to_openai, to_anthropic):
        with pytest.raises(InvalidEvent, match="dict"):
            shape(wrong)


def check_openai(messages: list[Mapping[str, Any]]) -> None:
    """Assert the rules of chat completions: each call is answered at once, and only calls are."""
    waiting: list[str] = []
    for message in messages:
        assert set(message) <= {"role", "content", "name", "tool_calls", "tool_call_id"}
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            assert isinstance(message["content"], (str, list))
            continue
        assert not waiting
        assert message["role"] in ("system", "developer", "user", "assistant")
        assert message["content"] is not None or message["tool_calls"]
        waiting = [each["id"] for each in message.get("tool_calls", ())]
    assert not waiting


def check_anthropic(made: Mapping[str, Any]) -> None:
    """Assert the rules of messages: roles alternate, the user first, calls answered next."""
    assert made.get("system", "x")
    uses: list[str] = []
    for index, message in enumerate(made["messages"]):
        assert message["role"] == ("user", "assistant")[index % 2]
        kinds = [part["type"] for part in message["content"]]
        found = [p["tool_use_id"] for p in message["content"] if p["type"] == "tool_result"]
        assert message["content"] and kinds[: len(found)] == ["tool_result"] * len(found)
        assert found == uses
        assert all(p["text"].strip() for p in message["content"] if p["type"] == "text")
        uses = [part["id"] for part in message["content"] if part["type"] == "tool_use"]
        assert not uses or message["role"] == "assistant"
    assert not uses


# -- examples --------------------------------------------------------------------------------


def test_what_a_window_is_made_of(store):
    """System prompt and important ones, then summaries, then the newest, each with its reason."""
    store.create("s")
    store.append("s", [{"role": "system", "content": "Be kind."}])
    store.append("s", said("old", "older"))
    store.append("s", {"role": "user", "content": "my name", "metadata": {"important": 1}})
    store.append("s", said("a", "b", "c"))
    spans = SessionState.of(store, "s").header.spans
    covered = [type(spans[0])("s", 1, 3)]
    store.summarize("s", "they said things", lines=covered)
    window = build_context(store, "s", last=2)
    assert [(each.why, each.message.text) for each in window.chosen] == [
        ("system", "Be kind."),
        ("summary", "they said things"),
        ("important", "my name"),
        ("recent", "b"),
        ("recent", "c"),
    ]
    assert [(each.why, each.messages, each.tokens) for each in window.left] == [("last", 1, 1)]
    assert "summary" not in [each.why for each in build_context(store, "s", None, 2, False).chosen]


def test_the_budget_is_the_sessions_token_limit(store):
    """Without max_tokens the session's own limit holds; what is named wins."""
    store.create("s", token_limit=3)
    store.append("s", said("four", "four", "four", "four"))
    assert build_context(store, "s").tokens == 3
    assert build_context(store, "s", 2).tokens == 2
    assert build_context(store, "s", 2).left[0].why == "budget"


def test_the_exempt_alone_may_not_be_over_the_budget(store):
    """Both numbers are in the error, and what to do."""
    store.create("s")
    store.append("s", {"role": "system", "content": "x" * 400})
    with pytest.raises(InvalidEvent, match=r"has 100 tokens, the budget is 99; raise max_tokens"):
        build_context(store, "s", 99)
    assert build_context(store, "s", 100).tokens == 100


@pytest.mark.parametrize("shape", SHAPES)
def test_parallel_calls_stay_with_all_their_results(store, shape):
    """One message with several calls and results in any order goes in or out as a whole."""
    store.create("s")
    store.append("s", said("please"))
    store.append("s", [call(["a", "b", "c"], shape), *results(["c"], shape)])
    store.append("s", results(["a", "b"], shape))
    store.append("s", said("thanks"))
    whole = build_context(store, "s", last=2)
    assert [each.index for each in whole.chosen] == list(range(1, len(whole) + 1))
    assert build_context(store, "s", whole.tokens - 1).messages[0].text == "thanks"
    check_openai(whole.to_openai())
    assert [each.get("tool_call_id") for each in whole.to_openai()[1:4]] == ["a", "b", "c"]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_interrupted_turn_is_left_out(store, shape):
    """A call of which a result never came is left out with the results that did, and counted."""
    store.create("s")
    store.append("s", said("please"))
    store.append("s", [call(["a", "b"], shape), *results(["a"], shape)])
    store.append("s", said("hello?"))
    window = build_context(store, "s")
    assert [each.text for each in window.messages] == ["please", "hello?"]
    assert [(each.why, each.messages) for each in window.left] == [("orphans", 2)]
    store.append("s", results(["b"], shape))
    assert len(build_context(store, "s")) == 5


@pytest.mark.parametrize("shape", SHAPES)
def test_orphans_are_none_of_the_last(store, shape):
    """Neither a result without its call nor a call without its results uses up one of the N."""
    store.create("s")
    store.append("s", said("one", "two", "three"))
    store.append("s", results(["gone"], shape))
    store.append("s", call(["never"], shape))
    window = build_context(store, "s", last=2)
    assert [each.text for each in window.messages] == ["two", "three"]
    assert [(each.why, each.messages) for each in window.left] == [("last", 1), ("orphans", 2)]
    assert build_context(store, "s", last=0).messages == []


def test_a_window_passes_over_so_many_orphans(store):
    """Behind more orphans than ORPHANS_MAX nothing is looked for, whatever `last` would allow."""
    store.create("s")
    store.append("s", said("one"))
    for missing, found in ((ORPHANS_MAX, 1), (1, 0)):
        orphans = [f"{missing}-{number}" for number in range(missing)]
        store.append("s", results(orphans, "openai"))
        assert len(build_context(store, "s", last=5)) == found
    assert build_context(store, "s", last=5).left[0].why == "last"


def test_a_question_must_have_room_beside_what_is_always_there(store):
    """check_room() refuses what makes a window of it, prompt and important ones over the budget."""
    store.create("s", token_limit=30)
    store.append("s", {"role": "system", "content": "x" * 40})
    store.append("s", said("y" * 400))
    check_room(store, "s", {"content": "z" * 80})
    with pytest.raises(InvalidEvent, match="has 31 tokens, the budget is 30"):
        check_room(store, "s", {"content": "z" * 84})
    check_room(store, "s", {"content": "z" * 84}, max_tokens=31)
    store.append("s", {"content": "w" * 20, "metadata": {"important": True}})
    with pytest.raises(InvalidEvent, match="has 35 tokens, the budget is 30"):
        check_room(store, "s", {"content": "z" * 80})


def test_marks_hold_for_branches_and_other_processes(tmp_path):
    """Important messages of a parent, or that another opened store wrote, are found at once."""
    with EventStore.open(tmp_path / "h") as store, EventStore.open(tmp_path / "h") as other:
        store.create("s")
        store.append("s", {"content": "early", "metadata": {"important": True}})
        store.append("s", said(*"abcdefgh"))
        assert build_context(store, "s", last=1).messages[0].text == "early"
        store.branch("s", "b", at=3)
        other.append("b", {"content": "later", "metadata": {"important": "yes"}})
        other.append("b", said(*"ijkl"))
        shown = [each.text for each in build_context(store, "b", last=1).messages]
        assert shown == ["early", "later", "l"]
        assert build_context(other, "b", last=1) == build_context(store, "b", last=1)


def test_a_window_reads_no_more_than_it_shows(monkeypatch):
    """Twenty messages of 5,000 cost the reading of some 40, once the marks are known."""
    with EventStore.in_memory() as store:
        store.create("s")
        for start in range(0, 5_000, 500):
            store.append("s", said(*(f"message {start + each}" for each in range(500))))
        marks_of(store).among(SessionState.of(store, "s").header.spans)
        decoded = []
        event = type(store.event(1).frame).event
        monkeypatch.setattr(
            type(store.event(1).frame),
            "event",
            lambda frame, index: (decoded.append(index), event(frame, index))[1],
        )
        assert len(build_context(store, "s")) == 20
        assert len(decoded) < 60


def test_moments_and_deleted_sessions(store):
    """A deleted session has no window now, and its past ones still."""
    store.create("s")
    store.append("s", said("hi"))
    window = build_context(store, "s")
    store.delete("s")
    with pytest.raises(SessionDeleted):
        build_context(store, "s")
    assert build_context(store, "s", at_version=1) == window
    with pytest.raises(InvalidEvent, match="one moment"):
        build_context(store, "s", at_version=1, at_position=1)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": 1.5}, {"last": -1}])
def test_limits_must_be_whole_numbers(store, wrong):
    """A wrong limit is named with its value."""
    store.create("s")
    with pytest.raises(InvalidEvent, match=f"{next(iter(wrong))} must be a whole number"):
        build_context(store, "s", **wrong)


def test_a_window_draws_itself():
    """A bar for each part, what is free, and what was left out and why."""
    with EventStore.in_memory() as store:
        store.create("s", token_limit=100)
        store.append("s", {"role": "system", "content": "x" * 100})
        store.append("s", said(*["y" * 100] * 5))
        assert str(build_context(store, "s", last=2)).splitlines() == [
            "s@6: 3 messages, 75 of 100 tokens",
            "  system prompt ██████                         1         25",
            "  recent        ████████████                   2         50",
            "  free          ░░░░░░                                   25",
            "left out: 3 messages, 75 tokens, older than the last 2",
        ]
        assert build_context(store, "s", last=2).to_dict()["left"] == [
            {"why": "last", "messages": 3, "tokens": 75}
        ]


def test_parts_are_translated():
    """Pictures, thoughts, errors and odd arguments come out as the other side has them."""
    data = "data:image/png;base64,QUJD"
    picture = {"type": "image_url", "image_url": {"url": data}}
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    made = to_anthropic([{"role": "user", "content": [picture, {"type": "file", "file": {}}]}])
    assert made["messages"][0]["content"] == [
        {"type": "image", "source": source},
        {"type": "text", "text": "[file that can't be shown here]"},
    ]
    thought = {"type": "thinking", "thinking": "hm"}
    parts = [thought, {"type": "image", "source": source}]
    back = to_openai([{"role": "assistant", "content": parts}])
    assert back == [{"role": "assistant", "content": [picture]}]
    odd = call(["a"], "openai")
    odd["tool_calls"][0]["function"]["arguments"] = "not json"
    failed = {"type": "tool_result", "tool_use_id": "a", "content": "broke", "is_error": True}
    both = to_anthropic([odd, {"role": "user", "content": [failed, {"type": "text", "text": "?"}]}])
    assert both["messages"][0]["content"] == [{"type": "text", "text": OPENING}]
    assert both["messages"][1]["content"][0]["input"] == {"arguments": "not json"}
    assert both["messages"][2]["content"] == [failed, {"type": "text", "text": "?"}]


def test_flat_calls_are_translated():
    """A call without `function`, with its name and `params` beside its id, goes out in both."""
    flat = {"role": "assistant", "tool_calls": [{"id": "a", "name": "go", "params": {"x": 1}}]}
    said = [flat, {"role": "tool", "tool_call_id": "a", "content": "ok"}]
    function = {"name": "go", "arguments": '{"x":1}'}
    assert to_openai(said)[0]["tool_calls"] == [
        {"id": "a", "type": "function", "function": function}
    ]
    use = {"type": "tool_use", "id": "a", "name": "go", "input": {"x": 1}}
    assert to_anthropic(said)["messages"][1]["content"] == [use]


def test_system_texts_stand_apart():
    """System and developer texts and summaries become one system text, in order."""
    messages = [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "hi"},
        {"role": "user", "content": ""},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "yes", "metadata": {"mine": 1}, "id": "m1"},
    ]
    assert to_anthropic(messages) == {
        "system": "one\n\ntwo",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ],
    }
    assert to_openai(messages)[-1] == {"role": "assistant", "content": "yes"}
