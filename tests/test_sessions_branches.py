"""Branches of sessions: made, switched, compared, merged, outliving their root."""

import pytest
from faces import said, shown, texts

from eventstore import (
    DepthExceeded,
    InvalidEvent,
    MergeConflict,
    SessionDeleted,
    SessionNotFound,
)
from eventstore.sessions import SessionManager


def test_branches_are_made_switched_compared_and_merged(manager):
    """branch, switch, current, path, tree, compare and merge agree about one tree."""
    manager.create("root", metadata={"a": 1})
    manager.add_messages("root", [said("one"), said("two")])
    made = manager.branch("root", "try", at=1, description="d", session_id="b1", actor="me")
    assert (made.parent, made.at_version, made.branch_name) == ("root", 1, "try")
    assert (made.depth, made.description, shown(manager, "b1")) == (1, "d", ["one"])
    assert manager.create("b2", branch_from="b1").parent == "b1"
    manager.add_message("b1", said("other"))
    assert manager.path("b2") == ["root", "b1", "b2"]
    assert set(manager.tree("b1").nodes) == {"root", "b1", "b2"}
    found = manager.compare("root", "b1")
    assert (found.common, texts(found.only_a), texts(found.only_b)) == (1, ["two"], ["other"])
    manager.merge("b1", "root")
    assert shown(manager, "root") == ["one", "two", "other"]
    manager.update_metadata("root", {"a": 2})
    manager.update_metadata("b1", {"a": 3})
    with pytest.raises(MergeConflict):
        manager.merge("b1", into="root")
    manager.merge("b1", "root", strategy="squash", on_conflict="ours", summary="short")


def test_switching_is_a_fact_on_the_root(manager):
    """current() is the branch chosen last, from anywhere in the tree; get(follow=) goes there."""
    manager.create("root")
    manager.branch("root", session_id="b1")
    manager.branch("b1", session_id="b2")
    assert manager.current("b2") == "root" and manager.get("root").current is None
    manager.switch("b1", "b2")
    assert {manager.current(name) for name in ("root", "b1", "b2")} == {"b2"}
    assert manager.get("b1", follow=True).name == "b2"
    assert manager.get("root").current == "b2"
    manager.switch("b2", "b1")
    manager.delete("b1")
    assert manager.current("b2") == "root"
    manager.switch("b2", "b2")
    manager.switch("b2", "root")
    assert manager.current("b2") == "root"
    assert manager.get("root").context == {}


def test_branches_outlive_their_root(manager):
    """Where the root is deleted, what is left of it are trees with choices of their own."""
    manager.create("root")
    manager.branch("root", session_id="b1")
    manager.switch("root", "b1")
    manager.branch("root", session_id="c1")  # inherits a choice that is none of its own tree's
    manager.branch("b1", session_id="b2")
    manager.branch("b2", session_id="b3")
    manager.delete("root")
    assert [manager.current(name) for name in ("b1", "b2", "b3", "c1")] == ["b1"] * 3 + ["c1"]
    manager.switch("b1", "b3")
    manager.delete("b2")
    assert manager.current("b1") == manager.current("b3") == "b3"
    assert manager.get("b1", follow=True).name == "b3"
    manager.switch("b3", "b1")
    assert manager.get("b3", follow=True).name == "b1"
    with pytest.raises(InvalidEvent, match="not in the tree of 'b1'"):
        manager.switch("b1", "c1")
    manager.delete("c1")
    with pytest.raises(SessionDeleted):
        manager.current("c1")


def test_a_branch_of_another_tree_can_t_be_current(manager):
    """switch() refuses what is not in the tree, is deleted or does not exist."""
    for name in ("root", "stranger"):
        manager.create(name)
    manager.branch("root", session_id="gone")
    manager.delete("gone")
    with pytest.raises(InvalidEvent, match="not in the tree of 'root'"):
        manager.switch("root", "stranger")
    with pytest.raises(SessionDeleted):
        manager.switch("root", "gone")
    with pytest.raises(SessionNotFound):
        manager.switch("root", "nobody")


def test_depth_is_limited_by_the_settings(tmp_path):
    """Branches of branches go as deep as max_depth says."""
    with SessionManager.open(tmp_path / "history", max_depth=2) as manager:
        manager.create("0")
        manager.branch("0", session_id="1")
        manager.branch("1", session_id="2")
        with pytest.raises(DepthExceeded, match="limit is 2"):
            manager.branch("2", session_id="3")
