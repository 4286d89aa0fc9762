"""ShareGPT: turns of speakers come in as messages of roles, with all that they carry."""

import json

import pytest
from talks import shown

from eventstore import InvalidEvent
from eventstore.interchange import Imported, detect_format, import_file
from projections import SessionState

TALK = {
    "id": "t_0",
    "conversations": [
        {"from": "human", "value": "Is it raining?"},
        {"from": "gpt", "value": "It is.", "weight": 1},
    ],
    "model": "x",
}


def turn(speaker: str, value="x", **more) -> dict:
    """Return a turn."""
    return {"from": speaker, "value": value, **more}


@pytest.mark.parametrize(
    ("shape", "sessions"),
    [
        (lambda: json.dumps(TALK), ["t_0"]),
        (lambda: json.dumps([TALK, {"conversations": []}], indent=1), ["t_0", "talks-2"]),
        (lambda: f"{json.dumps(TALK)}\n\n{json.dumps({**TALK, 'id': 7})}\n", ["t_0", "7"]),
        (lambda: json.dumps({"conversations": TALK["conversations"]}), ["talks"]),
    ],
    ids=["an object", "a list", "lines", "without a name"],
)
def test_every_shape_is_found_out(store, tmp_path, shape, sessions):
    """One conversation, a list of them and JSON lines come in, named as they say or by the file."""
    path = tmp_path / "talks.json"
    path.write_text(shape())
    assert detect_format(path) == "sharegpt"
    found = import_file(store, path)
    assert found.sessions == len(sessions)
    assert sorted(store.sessions()) == sorted(sessions)
    assert shown(store, sessions[0]) == [
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": "It is.", "weight": 1},
    ]


def test_what_a_conversation_carries_is_kept(store, tmp_path):
    """Its system prompt is the first message, all else its metadata."""
    path = tmp_path / "talks.json"
    path.write_text(
        json.dumps({**TALK, "system": "Be brief.", "tools": "[]", "chosen": turn("gpt")})
    )
    assert import_file(store, path) == Imported(1, 0, 3, 4)
    assert shown(store, "t_0")[0] == {"role": "system", "content": "Be brief."}
    assert SessionState.of(store, "t_0").metadata == {
        "source": "talks.json",
        "model": "x",
        "tools": "[]",
        "chosen": turn("gpt"),
    }


def test_every_speaker_has_a_role(store, tmp_path):
    """Tools and other models are told by `from`; who speaks under a role's name, by that alone."""
    said = {
        "human": ("user", None),
        "gpt": ("assistant", None),
        "system": ("system", None),
        "user": ("user", None),
        "bard": ("assistant", "bard"),
        "function_call": ("assistant", "function_call"),
        "observation": ("tool", "observation"),
        "Alice": ("Alice", None),
    }
    path = tmp_path / "talks.jsonl"
    chat = {"role": "user", "content": "as chat"}
    path.write_text(json.dumps({"conversations": [*map(turn, said), chat]}))
    import_file(store, path)
    *found, last = shown(store, "talks")
    assert [(each["role"], each.get("from")) for each in found] == [*said.values()]
    assert last == chat


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([], "holds no conversation"),
        ([TALK, {"messages": []}], "entry 2 is no conversation: it has no list of conversations"),
        ({"conversations": "x"}, "talks.json is no conversation"),
        ({"conversations": [turn("human"), "x"]}, "turn 2 is no object"),
        ({"conversations": [{"from": "human"}]}, "turn 1 does not say `from` whom, or no `value`"),
        ({"conversations": [{"value": "x"}]}, "turn 1 does not say"),
        ({"conversations": [{"from": 7, "value": "x"}]}, "turn 1 does not say"),
        ([TALK, TALK], "comes twice"),
    ],
    ids=str,
)
def test_a_bad_file_writes_nothing(store, tmp_path, given, what):
    """One line says what is wrong and where, and nothing is written."""
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(given))
    with pytest.raises(Exception, match=what) as caught:
        import_file(store, path, "sharegpt")
    assert isinstance(caught.value, InvalidEvent) or what == "comes twice"
    assert store.head().size == 0
