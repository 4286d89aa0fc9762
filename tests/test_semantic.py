"""Near-duplicates: found by MinHash or an embedding, measured exactly, explained one by one."""

import subprocess
import sys
from random import Random

import pytest
from driver import ticking
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent
from eventstore.sessions import semantic
from eventstore.sessions.pruning import STRATEGIES, Duplicates, KeepCount
from eventstore.sessions.semantic import bands, evened, jaccard, shingles
from projections import SessionState, Views

rensa = pytest.importorskip("rensa", reason="needs the extra `semantic`")

SENTENCE = "the store keeps every fact that was said and nothing ever leaves its log again"
WORDS = SENTENCE.split()


def said(role, text, **fields):
    """Return a message."""
    return {"role": role, "content": text, **fields}


def letters(text):
    """Return a vector: how often each letter is in the text."""
    return [float(text.count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"]


def cosine(a, b):
    """Return the cosine of the angle between two vectors."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def shown(store, session="s"):
    """Return the visible messages by id."""
    return {message.id: message for message in SessionState.of(store, session).messages}


# -- the law -----------------------------------------------------------------------------------


def variant(seed, edits):
    """Return one of three sentences with some words changed."""
    random = Random(seed)
    words = Random(seed % 3).choices(WORDS, k=12)
    for _ in range(edits):
        words[random.randrange(12)] = random.choice([*WORDS, "x", ""])
    return " ".join(words)


TEXTS = st.one_of(
    st.builds(variant, st.integers(0, 30), st.integers(0, 3)),
    st.sampled_from(["yes", "", "go on, please", "…!"]),
)
MESSAGES = st.lists(
    st.one_of(
        st.builds(said, st.sampled_from(["user", "assistant"]), TEXTS),
        st.builds(said, st.just("user"), TEXTS, metadata=st.just({"important": True})),
        st.builds(said, st.just("user"), TEXTS, name=st.sampled_from(["ann", "bob"])),
        st.builds(said, st.just("tool"), TEXTS, tool_call_id=st.sampled_from("ab")),
        st.builds(
            said, st.just("assistant"), TEXTS, tool_calls=st.sampled_from([[{"id": "a"}], []])
        ),
        st.builds(said, st.just("user"), TEXTS.map(lambda text: [{"type": "text", "text": text}])),
        st.just(said("user", [{"type": "text", "text": variant(0, 0)}, {"type": "image"}])),
    ),
    min_size=1,
    max_size=25,
)


def likeness(first, second, embed):
    """Return how alike two messages are, by the definition."""
    a, b = evened(first.text), evened(second.text)
    if embed is not None:
        return cosine(embed(a), embed(b))
    return jaccard(shingles(a), shingles(b))


def is_compared(message):
    """Return True for a message of enough text and nothing else."""
    fields = message.fields
    tools = fields.get("tool_calls") or fields.get("tool_call_id")
    return not tools and "image" not in str(message.content) and len(evened(message.text)) >= 20


@given(MESSAGES, st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.sampled_from([None, letters]))
def test_what_goes_says_what_stays(messages, similarity, embed):
    """Each removal names a later message of the same speaker that stays, and how alike they are.

    Of what stays, no two messages are that alike, unless the older one is exempt.
    """
    with EventStore.in_memory(clock=ticking()) as store:
        store.create("s")
        store.append("s", [*messages, said("user", "the end")])
        views, before = Views(store), shown(store)
        plan = Duplicates(similarity=similarity, embed=embed).plan(store, views)
        assert plan == Duplicates(similarity=similarity, embed=embed).plan(store, views)
        assert plan.apply(store).refused == []
        after, order = shown(store), list(before)
        drops = [drop for step in plan.steps for drop in step.drops]
        assert set(before) - set(after) == {drop.message for drop in drops}
        for drop in drops:
            old, new = before[drop.message], after[drop.of]
            assert order.index(old.id) < order.index(new.id)
            assert (old.role, old.name) == (new.role, new.name)
            assert is_compared(old) and is_compared(new) and "important" not in old.metadata
            assert drop.similarity == pytest.approx(likeness(old, new, embed))
            assert drop.similarity >= similarity
            assert f"{drop.of!r}" in drop.why
        left = [m for m in after.values() if is_compared(m)]
        for index, old in enumerate(left):
            for new in left[index + 1 :]:
                same = (old.role, old.name) == (new.role, new.name)
                if same and "important" not in old.metadata and exempt_prompt(before, old) is False:
                    assert likeness(old, new, embed) < similarity + 1e-9
        assert Duplicates(similarity=similarity, embed=embed).plan(store, views).steps == []


def exempt_prompt(before, message):
    """Return True for the system prompt, which never goes."""
    first = next(iter(before.values()))
    return message.id == first.id and first.role == "system"


@given(st.integers(0, 999), st.sampled_from([0.3, 0.6, 0.85, 0.95]))
def test_minhash_finds_what_comparing_all_finds(seed, similarity):
    """The candidates of MinHash hold every pair that is alike enough, but for its stated chance."""
    random, index, known = Random(seed), semantic.Shingles(similarity), {}
    for number in range(12):
        text = variant(random.randrange(6), random.randrange(3))
        scores = {n: jaccard(shingles(text), shingles(other)) for n, other in known.items()}
        best = max(scores.values(), default=0.0)
        found = index.nearest(text)
        if best >= similarity + 0.1:  # a wide miss of the bound would take a chance below 1e-6
            assert found is not None
            assert found[1] == pytest.approx(best)
        if found is not None:
            assert found[1] == scores[found[0]]
        index.add(number, text)
        known[number] = text


def test_the_number_of_bands_reaches_the_recall():
    """bands() divides the permutations; texts just alike enough share a band nearly always."""
    for similarity in (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0):
        count = bands(similarity)
        assert semantic.PERMUTATIONS % count == 0
        recall = 1 - (1 - similarity ** (semantic.PERMUTATIONS // count)) ** count
        assert recall >= semantic.RECALL_MIN
    assert bands(0.01) == semantic.PERMUTATIONS


# -- cases -------------------------------------------------------------------------------------

LONG = "Where is my order? It should have come last week."


def test_texts_are_evened_out_before_they_are_compared(store):
    """Case, punctuation and compatible letters make no difference; another word does."""
    store.create("s")
    again = LONG.upper().replace("?", "...").replace("W", "\uff37").replace(" ", "\t ")
    store.append("s", [said("user", LONG), said("user", again)])
    plan = Duplicates(similarity=1.0).plan(store, Views(store))
    (drop,) = plan.steps[0].drops
    assert (drop.message, drop.of, drop.similarity) == ("s#1", "s#2", 1.0)
    assert drop.why == "says what 's#2' says: 1.00 Jaccard over runs of 5 characters"


def test_a_chain_of_likeness_ends_at_one_that_stays(store):
    """Where A is like B and B like C, but A is not like C, only B goes: each goes for one kept."""
    tails = ("delta echo", "delta golf", "sierra golf")
    a, b, c = (f"alpha bravo charlie november {tail}" for tail in tails)
    pairs = [jaccard(shingles(x), shingles(y)) for x, y in ((a, b), (b, c), (a, c))]
    assert min(pairs[:2]) > 0.55 > pairs[2]
    store.create("s")
    store.append("s", [said("user", text) for text in (a, b, c)])
    plan = Duplicates(similarity=0.55).plan(store, Views(store))
    assert [(drop.message, drop.of) for drop in plan.steps[0].drops] == [("s#2", "s#3")]


def test_only_the_newest_are_looked_at(store):
    """Messages beyond `messages_max` from the end are left alone."""
    store.create("s")
    store.append("s", [said("user", LONG)] * 6)
    plan = Duplicates(messages_max=3).plan(store, Views(store))
    assert [drop.message for drop in plan.steps[0].drops] == ["s#4", "s#5"]


def test_a_pinned_session_is_left_alone(store):
    """Nothing goes from a pinned session, however alike."""
    store.create("s", metadata={"pinned": True})
    store.append("s", [said("user", LONG)] * 3)
    assert Duplicates().plan(store, Views(store)).steps == []


def test_a_text_that_is_too_long_is_not_compared(store, monkeypatch):
    """Above COMPARED_CHARACTERS_MAX a message never goes."""
    monkeypatch.setattr(semantic, "COMPARED_CHARACTERS_MAX", len(LONG) - 1)
    store.create("s")
    store.append("s", [said("user", LONG)] * 3)
    assert Duplicates().plan(store, Views(store)).steps == []


def test_each_text_is_embedded_once(store):
    """The embedding is asked once a message, newest first."""
    asked = []

    def embed(text):
        asked.append(text)
        return letters(text)

    store.create("s")
    store.append("s", [said("user", f"{LONG} number {word}") for word in ("one", "two", "six")])
    Duplicates(embed=embed, similarity=1.0).plan(store, Views(store))
    assert [text.split()[-1] for text in asked] == ["six", "two", "one"]


@pytest.mark.parametrize(
    "embed",
    [
        lambda _: [0.0, 0.0],
        lambda _: [float("nan"), 1.0],
        lambda _: [],
        lambda text: [1.0] * (2 + text.count("x")),
    ],
)
def test_a_vector_that_has_no_direction_is_refused(store, embed):
    """Zero, infinite, empty or uneven vectors are one error with their numbers."""
    store.create("s")
    store.append("s", [said("user", f"{LONG} xx"), said("user", f"{LONG} no")])
    with pytest.raises(InvalidEvent, match="embed gave a vector of"):
        Duplicates(embed=embed).plan(store, Views(store))


@pytest.mark.parametrize("wrong", [0, -0.5, 1.01, True, "0.9", float("nan"), None])
def test_a_similarity_out_of_range_is_refused(wrong):
    """Similarity is a number above 0, up to 1."""
    with pytest.raises(InvalidEvent, match="similarity must be a number above 0, up to 1"):
        Duplicates(similarity=wrong)


def test_duplicates_and_counts_go_one_after_the_other(store):
    """A plan made before another was applied is refused for what that one changed alone."""
    for name in "st":
        store.create(name)
    store.append("s", [said("user", LONG)] * 4)
    store.append("t", [said("user", f"{number} is a number") for number in range(4)])
    views = Views(store)
    plans = [STRATEGIES["semantic"]().plan(store, views), KeepCount(keep=2).plan(store, views)]
    outcomes = [plan.apply(store) for plan in plans]
    assert [step.session for step in outcomes[0].done] == ["s"]
    assert [step.session for step in outcomes[1].done] == ["t"]
    assert [each.session for each in outcomes[1].refused] == ["s"]


def test_without_the_extra_the_message_says_what_to_install(tmp_path):
    """Where rensa is missing, planning says so by name, and an embedding works all the same."""
    script = """
import sys
sys.modules["rensa"] = None
from eventstore import EventStore, InvalidEvent
from eventstore.sessions.pruning import Duplicates
from projections import Views
with EventStore.in_memory() as store:
    store.create("s")
    store.append("s", [{"role": "user", "content": "the very same words, twice"}] * 2)
    try:
        Duplicates().plan(store, Views(store))
    except InvalidEvent as error:
        print(error)
    print(Duplicates(embed=lambda text: [1.0]).plan(store, Views(store)).messages)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "near-duplicates need rensa: pip install 'session-eventstore[semantic]', or embed=",
        "1",
    ]
