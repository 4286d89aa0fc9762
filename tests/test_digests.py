"""Digests: summaries of messages without a model, extracted or quoted, cut to a length."""

import sys

import pytest
from facts import TEXTS
from hypothesis import given
from hypothesis import strategies as st
from play import said

from eventstore import Message
from eventstore.messages import count_tokens
from eventstore.sessions.digests import clipped, digest, extract

MESSAGES = st.lists(
    st.builds(
        lambda role, text: Message({"role": role, "content": text}),
        st.sampled_from(["user", "assistant", ""]),
        TEXTS | st.text(max_size=400),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("extra", [True, False])
@given(messages=MESSAGES, tokens=st.integers(1, 200))
def test_an_extract_fits_and_is_not_empty(extra, messages, tokens):
    """With `summa` or without it, any messages give a text of at most so many tokens."""
    if extra:
        pytest.importorskip("summa", reason="needs the extra `summaries`")
    with pytest.MonkeyPatch.context() as patch:
        if not extra:
            patch.setitem(sys.modules, "summa", None)
        text = extract(messages, tokens, count_tokens)
    assert text and count_tokens({"content": text}) <= tokens


def test_a_digest_quotes_first_and_last():
    """It shortens lines, takes them from both ends, and says where some are left out."""
    messages = [Message(each) for each in said("first", *["middle " * 50] * 50, "last")]
    lines = digest(messages, 500).splitlines()
    assert lines[0] == "user: first" and lines[-1] == "user: last" and "…" in lines
    assert sum(map(len, lines)) <= 500 and max(map(len, lines)) <= 160
    assert digest(messages[:1] + messages[-1:], 500) == "user: first\nuser: last"
    silent = [Message({"role": "assistant", "tool_calls": []})] * 2
    assert digest(silent, 9) == "(2 messages without text)"


@given(text=st.text(max_size=300), most=st.integers(1, 50), base=st.integers(0, 60))
def test_any_counter_can_be_cut_to(text, most, base):
    """Cutting ends with any counter, and keeps what fits as it is."""

    def count(fields):
        return base + count_tokens(fields)

    shown = clipped(text, most, count)
    assert count({"content": shown}) <= most or shown in ("", "…")
    assert shown == text or count({"content": text}) > most


def test_a_textrank_summary_says_what_most_sentences_say():
    """With the extra, the sentences that share most words with the others come first."""
    pytest.importorskip("summa", reason="needs the extra `summaries`")
    talked = (
        "The blue parcel left the harbour office.",
        "A parcel waits at the harbour.",
        "Who sent the blue parcel to the harbour office yesterday?",
        "The office keeps each parcel.",
    )
    text = extract([Message(each) for each in said("Zebras yodel.", *talked)], 20, count_tokens)
    assert "parcel" in text and "Zebras" not in text
