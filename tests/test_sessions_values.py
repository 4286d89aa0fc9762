"""Metadata, context, shared values and templates of sessions."""

import pytest
from faces import said, shown
from facts import told

from eventstore import (
    InvalidEvent,
    LegalHold,
    SessionDeleted,
    SessionNotFound,
)
from eventstore.audit.verify import verify
from eventstore.sessions import Template
from projections import SessionState

# -- values ----------------------------------------------------------------------------------


def test_metadata_is_patched_and_context_set(manager):
    """Metadata is merged, a context value replaced; None removes; a default stands for nothing."""
    manager.create("s", metadata={"a": 1, "b": {"c": 2}}, context={"k": 1})
    manager.update_metadata("s", {"a": None, "b": {"d": 3}})
    manager.set_context("s", "k", {"x": [1]})
    manager.set_context("s", "l", 2)
    manager.set_context("s", "l", None)
    assert manager.get("s").metadata == {"b": {"c": 2, "d": 3}}
    assert manager.get_context("s", "k") == {"x": [1]}
    assert manager.get_context("s", "l", "gone") == "gone"
    assert manager.get_context("s", "k", at_version=0) == 1
    assert manager.get_context("s", "l", at_version=3) == 2


def test_context_is_shared_by_reference(manager):
    """What is shared follows its owner, through other sessions too, and at the same moment."""
    for name in ("owner", "reader", "third"):
        manager.create(name)
    manager.set_context("owner", "plan", "one")
    manager.share("owner", "plan", "reader")
    manager.share("reader", "plan", "third", name="theirs")
    assert manager.get_context("third", "theirs") == "one"
    then = manager.store.head().size - 1
    manager.set_context("owner", "plan", {"two": 2})
    assert manager.get_context("reader", "plan") == {"two": 2}
    assert manager.get_context("third", "theirs") == {"two": 2}
    assert manager.get_context("third", "theirs", at_position=then) == "one"
    recorded_at = manager.store.event(then).recorded_at
    if manager.store.event(then + 1).recorded_at > recorded_at:
        assert manager.get_context("third", "theirs", at_time=recorded_at) == "one"
    assert manager.get_context("reader", "plan", at_version=1) == "one"


def test_a_reference_to_nothing_is_told(manager):
    """Sharing what is not there, or what would refer to itself, is refused; reading it too."""
    for name in ("a", "b"):
        manager.create(name)
    with pytest.raises(InvalidEvent, match="no context value 'k'"):
        manager.share("a", "k", "b")
    with pytest.raises(SessionNotFound):
        manager.share("nobody", "k", "b")
    manager.set_context("a", "k", 1)
    manager.share("a", "k", "b")
    with pytest.raises(InvalidEvent, match=r"circle: a\.k -> b\.k -> a\.k"):
        manager.share("b", "k", "a")
    manager.set_context("a", "k", {"$ref": {"session": "b", "key": "k"}})
    with pytest.raises(InvalidEvent, match="goes in a circle"):
        manager.get_context("b", "k")
    manager.set_context("a", "k", None)
    with pytest.raises(InvalidEvent, match="session 'a' has no context value 'k'"):
        manager.get_context("b", "k")
    manager.delete("a")
    with pytest.raises(SessionDeleted):
        manager.get_context("b", "k")


def test_what_only_looks_like_a_reference_is_a_value(manager):
    """A value is a reference only in exactly that shape."""
    manager.create("s")
    for value in ({"$ref": 1}, {"$ref": {"session": "s"}}, {"$ref": {}, "more": 1}, [1]):
        manager.set_context("s", "k", value)
        assert manager.get_context("s", "k") == value


# -- templates -------------------------------------------------------------------------------


def test_a_template_is_copied(manager):
    """A session begins with its template's values and messages, and keeps them ever after."""
    manager.save_template(
        Template(
            name="support",
            description="d",
            metadata={"type": "dm"},
            context={"tone": "kind"},
            messages=[{"role": "system", "content": "Be kind."}],
            max_messages=50,
        )
    )
    made = manager.create("s", template="support", context={"more": 1})
    assert (made.metadata, made.context) == ({"type": "dm"}, {"tone": "kind", "more": 1})
    assert (made.max_messages, made.template, made.messages) == (50, "support", 1)
    manager.save_template(Template(name="support", messages=[]))
    manager.delete_template("support")
    assert shown(manager, "s") == ["Be kind."]
    with pytest.raises(InvalidEvent, match="no template 'support'; there are dm, group, bot"):
        manager.create(template="support")
    manager.save_template(Template(name="support", context={"new": True}))
    assert manager.template("support").context == {"new": True}


def test_a_session_with_its_template_is_one_append(manager):
    """The messages of a template come in with the session, or not at all."""
    manager.save_template(Template(name="t", messages=[said("one"), said("two")]))
    size = manager.store.head().size
    manager.create("s", template="t")
    assert manager.store.head().size == size + 3
    assert len({each.recorded_at for each in manager.store.all(size)}) == 1
    found = manager.find_or_create(chat=1, template="t")
    assert (found.template, found.messages) == ("t", 2)


def test_templates_are_listed_and_presets_can_t_be_changed(manager):
    """templates() are the presets and then the others by name; a preset's name is taken."""
    for name in ("b", "a"):
        manager.save_template(Template(name=name))
    assert [each.name for each in manager.templates()] == ["dm", "group", "bot", "a", "b"]
    manager.delete_template("b")
    assert [each.name for each in manager.templates()] == ["dm", "group", "bot", "a"]
    with pytest.raises(InvalidEvent, match="'dm' is a preset"):
        manager.save_template(Template(name="dm"))
    with pytest.raises(InvalidEvent, match="'dm' is a preset"):
        manager.delete_template("dm")
    with pytest.raises(InvalidEvent, match="no template 'b'"):
        manager.delete_template("b")
    assert manager.count() == 0  # templates are no conversations


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": "soon"},
        {"ttl": -5},
        {"ttl": object()},
        {"metadata": None},
        {"messages": "hello"},
        {"messages": [5]},
        {"description": None},
        {"token_limit": 0},
        {"max_messages": 1.5},
        {"max_bytes": -1},
        {"name": "\ud800"},
    ],
    ids=" ".join,
)
def test_a_template_that_no_session_could_begin_with_is_not_kept(manager, wrong):
    """What is wrong in a template is said when it is saved, and the others stay listed."""
    with pytest.raises(InvalidEvent):
        manager.save_template(Template(**{"name": "t"} | wrong))
    assert not manager.store.exists("template:t") and len(manager.templates()) == 3


def test_what_is_no_template_is_said_to_be_none(manager):
    """No template at all, and a session that only looks like one, are errors that say so."""
    with pytest.raises(InvalidEvent, match="a Template is expected, not str"):
        manager.save_template("support")
    manager.create("template:t", context={"template": 5})
    with pytest.raises(InvalidEvent, match="template 't' is none"):
        manager.template("t")


def test_the_presets_say_what_they_promise(manager):
    """A bot's session lives for 24 hours and 4,000 tokens; dm and group have their types."""
    made = manager.create(template="bot")
    assert (made.ttl, made.token_limit) == (86_400, 4_000)
    assert [manager.create(template=name).metadata for name in ("dm", "group")] == [
        {"type": "dm"},
        {"type": "group"},
    ]


def test_a_template_whose_session_was_deleted_can_be_kept_again(manager):
    """Who deletes its session deletes the template: nothing is left of it, its name is free."""
    for turn in range(3):
        manager.save_template(Template(name="x", description=str(turn)))
        manager.save_template(Template(name="1:x"))
        assert manager.template("x").description == str(turn)
        assert [each.name for each in manager.templates()][3:] == ["1:x", "x"]
        [session] = [
            row.session for row in manager.list(where={"title": "x"}, status="archived", limit=None)
        ]
        manager.delete(session)
        assert [each.name for each in manager.templates()][3:] == ["1:x"]
        with pytest.raises(InvalidEvent, match="there is no template 'x'"):
            manager.template("x")
        with pytest.raises(InvalidEvent, match="there is no template 'x'"):
            manager.delete_template("x")
    manager.save_template(Template(name="x"))
    manager.delete_template("x")
    assert [each.name for each in manager.templates()][3:] == ["1:x"]


def test_a_session_becomes_a_template(manager):
    """save_as_template() keeps values, limits and visible messages, not who or which branch."""
    made = manager.find_or_create(chat=1, metadata={"a": 1}, token_limit=99, max_bytes=5_000)
    manager.add_messages(made.name, [said("one"), said("two")])
    manager.branch(made.name, session_id="b")
    manager.switch(made.name, "b")
    manager.truncate(made.name, 1)
    manager.save_as_template(made.name, "t", "as it was")
    found = manager.template("t")
    assert (found.metadata, found.context, found.messages) == ({"a": 1}, {}, [said("two")])
    assert (found.token_limit, found.max_bytes, found.description) == (99, 5_000, "as it was")


def test_a_template_says_what_it_was_made_of(manager):
    """Templates that have something of a session are known: of it, its branches, its merges."""
    manager.create("s", metadata={"a": 1})
    manager.add_messages("s", [said("one")])
    manager.branch("s", session_id="b")
    manager.create("t")
    manager.merge("s", into="t", on_conflict="theirs")
    manager.create("apart")
    for name in ("s", "b", "t", "apart"):
        manager.save_as_template(name, f"of {name}")
    manager.save_template(Template(name="by hand", messages=[said("one")]))
    assert manager.templates_of("s") == ["of b", "of s", "of t"]
    assert manager.templates_of("b") == ["of b"]
    found = manager.template("of b").origin
    assert (found.session, found.version) == ("b", manager.store.version("b"))
    assert manager.template("by hand").origin is None
    manager.save_template(Template(name="of s"))  # what it was is kept in its past
    manager.delete_template("of t")
    assert manager.templates_of("s") == ["of b", "of s", "of t"]
    with pytest.raises(SessionNotFound):
        manager.templates_of("nowhere")


def test_a_template_goes_for_good(manager):
    """With `redact` no value that it ever had is left, now or in the past, and its name is free."""
    word = "zebrafish"
    manager.create("s")
    manager.add_messages("s", [said(word)])
    for session in ("template:t", "template-1:t"):
        manager.save_as_template("s", "t", word)
        manager.delete(session)
    manager.save_as_template("s", "t")
    manager.delete_template("t")
    manager.save_as_template("s", "other")
    manager.create("made", template="other")
    first = manager.delete_template("t", redact=True, reason="asked for")
    assert manager.templates_of("s") == ["other"]
    size = manager.store.head().size
    again = manager.delete_template("t", redact=True)
    assert again.duplicate and again.position == first.position
    assert manager.store.head().size == size
    told_in = {each.session for each in manager.store.all() if word in repr(each.structure)}
    assert told_in == {"s", "template:other", "made"}
    for session in ("template:t", "template-1:t", "template-2:t"):
        for version in range(manager.store.version(session) + 1):
            assert SessionState.of(manager.store, session, at_version=version).context == {}
    with pytest.raises(InvalidEvent, match="no template 't'"):
        manager.template("t")
    manager.save_template(Template(name="t", description="new"))
    assert manager.template("t").description == "new"
    assert shown(manager, "made") == [word]
    for name in ("dm", "nothing"):
        with pytest.raises(InvalidEvent):
            manager.delete_template(name, redact=True)
    assert told(verify(manager.store, deep=True)) == ""


def test_a_held_template_stays(manager):
    """A legal hold on the session of a template forbids to take its values away."""
    manager.create("s")
    manager.save_as_template("s", "t")
    manager.store.set_hold("template:t")
    with pytest.raises(LegalHold):
        manager.delete_template("t", redact=True)
    assert manager.template("t").origin.session == "s"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 300},
        {"name": "t", "metadata": {"a": {1, 2}}},
        {"name": "t", "context": {"a": float("nan")}},
        {"name": "t", "messages": [{"role": 1}]},
    ],
)
def test_a_template_that_could_not_begin_a_session_is_refused(manager, wrong):
    """What no session could hold is refused when the template is saved; nothing is written."""
    with pytest.raises(InvalidEvent):
        manager.save_template(Template(**wrong))
    assert manager.store.head().size == 0
