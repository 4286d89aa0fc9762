"""Token counters: the estimate, exact vocabularies, callables, and what is stored."""

import json
import sys
from pathlib import Path

import pytest
from facts import JSON, OBJECTS, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent
from eventstore.messages import TOKENS_MAX, count_tokens
from eventstore.sessions.tokens import CHARACTERS, ENCODINGS, exact, token_counter

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
USE = {"type": "tool_use", "id": "c", "name": "f", "input": {"city": "Zürich", "n": [1, 2]}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x" * 9}]}


@pytest.mark.parametrize(
    ("fields", "characters"),
    [
        ({"content": ""}, 0),
        ({"content": "abcd"}, 4),
        ({"content": "abcde", "role": "user", "name": "somebody", "id": "an id"}, 5),
        ({"content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]}, 5),
        ({"content": None, "tool_calls": [CALL, CALL]}, 16),
        ({"content": "hi", "tool_calls": [CALL]}, 10),
        ({"role": "tool", "tool_call_id": "c", "content": "x" * 7}, 7),
        ({"content": [USE]}, len(json.dumps(USE["input"], ensure_ascii=False))),
        ({"content": [RESULT, {"type": "text", "text": "ok"}]}, 11),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 99}}]}, 0),
    ],
)
def test_the_estimate_is_four_characters_a_token(fields, characters):
    """Text, arguments and results count, rounded up; roles, names, ids and pictures don't."""
    assert count_tokens(fields) == -(-characters // 4)
    assert token_counter(CHARACTERS)(fields) == count_tokens(fields)


@given(fields=OBJECTS, content=JSON)
def test_the_estimate_takes_any_message(fields, content):
    """Whatever JSON a message is made of, its estimate is a whole number from 0 on."""
    assert count_tokens({**fields, "content": content, "tool_calls": [content]}) >= 0


def vocabulary():
    """Skip where the extra is not installed."""
    return pytest.importorskip("quicktok", reason="needs the extra `tokens`")


@pytest.mark.parametrize(
    ("encoding", "text", "tokens"),
    [
        ("o200k_base", "hello world", 2),
        ("o200k_base", "antidisestablishmentarianism", 6),
        ("cl100k_base", "tiktoken is great!", 6),
        ("cl100k_base", "お誕生日おめでとう", 9),
        ("cl100k_base", "2 + 2 = 4", 7),
        ("cl100k_base", "antidisestablishmentarianism", 6),
    ],
)
def test_exact_counts_are_those_that_are_published(encoding, text, tokens):
    """The counts are those that OpenAI's own cookbook prints for these texts."""
    vocabulary()
    assert exact(encoding)({"content": text}) == tokens


@given(text=st.text(max_size=60), more=TEXTS)
def test_an_exact_count_is_the_number_of_tokens_of_each_text(text, more):
    """It is the length of the encoding, summed over text and arguments; surrogates are no error."""
    encoding = vocabulary().get_encoding("o200k_base")
    shown = text.encode("utf-8", "replace").decode()
    call = {"function": {"arguments": more}}
    counted = exact("o200k_base")({"content": text, "tool_calls": [call]})
    assert counted == len(encoding.encode_ordinary(shown)) + len(encoding.encode_ordinary(more))


def test_every_vocabulary_is_inside_the_package():
    """Each encoding's data lies beside the code, so nothing is ever fetched."""
    data = Path(vocabulary().__file__).parent / "data"
    kept = {each.stem for each in data.glob("*.vocab") if each.stat().st_size > 1_000_000}
    names = {each.removesuffix("_base").removesuffix("_harmony") for each in ENCODINGS}
    assert names <= kept
    assert (data / "o200k_harmony.special").is_file()


def test_a_lone_surrogate_is_counted():
    """Text that no store takes is counted all the same; it is the append that refuses it."""
    vocabulary()
    assert exact("cl100k_base")({"content": "\ud800"}) >= 1


@pytest.mark.parametrize("choice", ["", "gpt-4o", "o200k", "CHARACTERS", 5, None])
def test_unknown_counters_are_named(choice):
    """A name that is no encoding, or no name at all, is one clear error."""
    with pytest.raises(InvalidEvent, match=r"o200k_base|callable"):
        token_counter(choice)


@pytest.mark.parametrize("answer", [-1, 1.5, True, None, "3", TOKENS_MAX + 1])
def test_a_callable_must_count(answer):
    """What is no whole number in range is refused and nothing is written."""
    with EventStore.in_memory(count_tokens=lambda _: answer) as store:
        store.create("s")
        with pytest.raises(InvalidEvent, match="token counter"):
            store.append("s", {"role": "user", "content": "hi"})
        with pytest.raises(InvalidEvent, match="token counter"):
            store.create("t", messages=[{"role": "user", "content": "hi"}])
        assert store.version("s") == 0


@pytest.mark.parametrize("answer", [-1, 1.5, True])
def test_a_callable_that_does_not_count_takes_no_other_append_along(tmp_path, answer):
    """What was acknowledged before its sync outlives an append that can't be counted."""

    def count(fields):
        return answer if fields["content"] == "bad" else 1

    place = tmp_path / "s"
    with EventStore.open(place, durability="buffered", count_tokens=count) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "good"})
        with pytest.raises(InvalidEvent, match="token counter"):
            store.append("s", {"role": "user", "content": "bad"})
    with EventStore.open(place) as store:
        assert [each.event.tokens for each in store.events("s", 1)] == [1]


def test_counts_are_stored_with_the_message(tmp_path):
    """A count taken at the append stays, whichever counter the store is opened with later."""

    def words(fields):
        return len(fields["content"].split())

    with EventStore.open(tmp_path / "s", count_tokens=token_counter(words)) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "three short words"})
    with EventStore.open(tmp_path / "s") as store:
        store.append("s", {"role": "user", "content": "three short words"})
        assert [each.tokens for each in store.events("s", 1)] == [3, 5]


def test_a_missing_extra_is_named(monkeypatch):
    """Without the package, the error says what to install."""
    monkeypatch.setitem(sys.modules, "quicktok", None)
    with pytest.raises(InvalidEvent, match=r"session-eventstore\[tokens\]"):
        token_counter("o200k_base")
