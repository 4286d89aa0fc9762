"""Conversations with tools: drawn numbers become a history in which much goes wrong.

Invariants: the same numbers make the same history; calls come in both shapes, in parallel, with
results in any order, twice, too late or never; what the store refuses is left out.
"""

# ruff: noqa: ARG002 - every step takes two numbers, needed or not

from functools import partial
from random import Random
from typing import Any

from hypothesis import strategies as st

from eventstore import EventStore, EventStoreError

SHAPES = ("openai", "anthropic")


def call(ids, shape, text="") -> dict[str, Any]:
    """Return an assistant's message that makes these calls."""
    if shape == "openai":
        function = {"name": "look", "arguments": '{"at": 1}'}
        calls = [{"id": each, "type": "function", "function": function} for each in ids]
        return {"role": "assistant", "content": text or None, "tool_calls": calls}
    uses = [{"type": "tool_use", "id": each, "name": "look", "input": {"at": 1}} for each in ids]
    said = [{"type": "text", "text": text}] if text else []
    return {"role": "assistant", "content": said + uses}


def results(ids, shape) -> list[dict[str, Any]]:
    """Return the messages that bring these results: one each, or one for all."""
    if shape == "openai":
        return [{"role": "tool", "tool_call_id": each, "content": f"of {each}"} for each in ids]
    parts = [{"type": "tool_result", "tool_use_id": each, "content": f"of {each}"} for each in ids]
    return [{"role": "user", "content": parts}] if parts else []


class Play:
    """Makes a history out of drawn numbers; what the store refuses is left out."""

    def __init__(self, store: EventStore, **options: Any) -> None:
        self.store, self.session, self.open = store, "s", []
        store.create("s", **options)
        self.branches = 0

    def do(self, name: str, a: int, b: int) -> None:
        """Do one step."""
        try:
            getattr(self, name)(a, b)
        except EventStoreError:
            return

    def say(self, a: int, b: int) -> None:
        role = ("user", "assistant", "system", "user")[b % 4]
        self.store.append(self.session, {"role": role, "content": "word " * a})

    def important(self, a: int, b: int) -> None:
        marked = {"important": bool(b % 3)}
        self.store.append(self.session, {"role": "user", "content": "!" * a, "metadata": marked})

    def call(self, a: int, b: int) -> None:
        ids = [f"c{(a + each) % 5}" for each in range(1 + b % 3)]
        self.open += ids
        message = call(ids, SHAPES[a % 2], "hm " * (b % 2))
        if a % 7 == 0:
            message["metadata"] = {"important": True}
        self.store.append(self.session, message)

    def answer(self, a: int, b: int) -> None:
        count = min(1 + b % 3, len(self.open))
        ids = [self.open.pop(a % len(self.open)) for _ in range(count)]
        if ids:
            self.store.append(self.session, results(ids, SHAPES[b % 2]))

    def stray(self, a: int, b: int) -> None:
        self.store.append(self.session, results([f"c{a % 5}"], SHAPES[b % 2]))

    def prune(self, a: int, b: int) -> None:
        self.store.prune(self.session, keep_last=a)

    def summarize(self, a: int, b: int) -> None:
        version = self.store.version(self.session)
        self.store.summarize(self.session, "so far " * b, upto=max(version - a, 0))

    def branch(self, a: int, b: int) -> None:
        self.branches += 1
        version = self.store.version(self.session)
        name = f"b{self.branches}"
        self.store.branch(self.session, name, at=max(version - b, 0))
        self.session = name

    def rewind(self, a: int, b: int) -> None:
        self.store.rewind(self.session, max(self.store.version(self.session) - a, 0))


NAMES = (
    *("say", "call", "answer") * 4,
    *("important", "important", "stray", "summarize", "branch", "rewind", "prune"),
)


def steps_of(seed: int, length: int) -> list[tuple[str, int, int]]:
    """Return the steps of a seed: a longer list begins with the shorter one."""
    random = Random(seed)
    number = partial(random.randrange, 13)
    return [(random.choice(NAMES), number(), number()) for _ in range(length)]


STEPS = st.builds(steps_of, st.integers(0, 2**32 - 1), st.sampled_from([20, 30, 40, 5, 1]))


def said(*texts: str) -> list[dict[str, Any]]:
    """Return a user's messages."""
    return [{"role": "user", "content": text} for text in texts]
