"""TextRank: the graph is that of the package it comes from, the ranks are PageRank's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("summa", reason="needs the extra `summaries`")

from summa.summarizer import get_graph, summarize

from eventstore.sessions import textrank as module
from eventstore.sessions.textrank import DAMPING, textrank

WORDS = ["parcel", "parcels", "harbour", "office", "the", "blue", "Mr. X", "ship", "7", "sailed"]
SENTENCES = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), max_size=9
)

TALK = """Hello, I have a question about my order.
Of course, which order is it? Please give me the number of your order.
It is number 4711. I ordered a blue kettle and two cups last week.
I see the kettle and the cups. The kettle left our store on Monday, the cups are still here.
Why are the cups still in your store? I need the cups for a party on Friday.
The cups were sold out. New cups came in today and leave our store tomorrow.
Will the cups be here before the party on Friday?
Yes, they arrive on Thursday at your home. Shall I send a message once the cups leave the store?
Yes please, send the message to my phone.
Done. Is there anything else about your order?"""


def plain_ranks(text: str) -> dict[tuple[str, ...], float]:
    """Return PageRank by walking until nothing changes, on the graph of the package."""
    graph = get_graph(text)
    links = {
        node: {other: graph.edge_weight((node, other)) for other in graph.neighbors(node)}
        for node in graph.nodes()
    }
    totals = {node: sum(near.values()) for node, near in links.items() if sum(near.values())}
    ranks = dict.fromkeys(totals, 1.0)
    for _ in range(300):
        ranks = {
            node: (1 - DAMPING) / len(totals)
            + DAMPING * sum(links[other][node] / totals[other] * ranks[other] for other in near)
            for node in totals
            for near in [[other for other in links[node] if other in totals]]
        }
    return {tuple(node.split()): rank for node, rank in ranks.items()}


@given(SENTENCES)
def test_ranks_are_those_of_a_walk_on_the_same_graph(sentences):
    """Solved at once, ranks equal those of a walk without end on the graph that summa makes."""
    text = "\n".join(sentences)
    found = module._ranks([each.stems for each in module._sentences(text)])
    assert found == pytest.approx(plain_ranks(text), abs=1e-9)


@pytest.mark.parametrize("words", [5, 20, 40, 90, 500])
def test_a_talk_gives_what_the_package_gives(words):
    """Of a usual conversation it takes the very sentences that summa takes, for any length."""
    assert textrank(TALK, words) == summarize(TALK, words=words)


@given(st.text(max_size=200), st.integers(1, 50))
def test_any_text_gives_sentences_of_its_own(text, words):
    """Whatever the text, what comes out are lines of it, in their order."""
    at = 0
    for line in textrank(text, words).splitlines():
        for word in line.split():
            at = text.index(word, at)


def test_nothing_to_compare_gives_nothing():
    """No text, one sentence and stop words alone have no rank."""
    assert [textrank(text, 10) for text in ("", "One lonely parcel.", "it is. so it is.")] == [
        ""
    ] * 3
