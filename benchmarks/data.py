"""The bytes that every contender gets: real conversations where there are any, else generated.

Invariants: the same arguments give the same messages in every run; messages are plain dicts in
OpenAI's chat shape; a name says where they came from, and goes into every report.
"""

import importlib.util
import json
import random
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec

Message = dict[str, Any]
Conversation = list[Message]

TAU = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"
GENERATED_CONVERSATIONS = 200
SEED = 1


class Data:
    """Conversations to store, repeated as often as asked for."""

    def __init__(self, source: str, conversations: list[Conversation]) -> None:
        self.source, self.conversations = source, [each for each in conversations if each]
        self.flat = [message for each in self.conversations for message in each]
        self.message_bytes = sum(len(msgspec.json.encode(each)) for each in self.flat) / len(
            self.flat
        )

    def messages(self, count: int) -> list[Message]:
        """Return so many messages, from the first on, repeated where they run out."""
        return list(islice(cycle(self.flat), count))

    def stream(self) -> Iterator[Message]:
        """Iterate over all messages for ever."""
        return cycle(self.flat)

    def take(self, count: int) -> list[Conversation]:
        """Return so many conversations, repeated where they run out."""
        return list(islice(cycle(self.conversations), count))

    def covering(self, messages: int) -> list[Conversation]:
        """Return conversations that hold at least so many messages in all."""
        taken: list[Conversation] = []
        left = messages
        for each in cycle(self.conversations):
            if left <= 0:
                return taken
            taken.append(each)
            left -= len(each)
        raise AssertionError("a cycle does not end")


def load() -> Data:
    """Return tau-bench's airline conversations, else chitchat-dataset's, else generated ones."""
    if TAU.is_file():
        return Data("tau-bench airline", [each["traj"] for each in json.loads(TAU.read_bytes())])
    if importlib.util.find_spec("chitchat_dataset"):
        return Data("chitchat-dataset", _chitchat())
    return Data("generated", list(_generated(random.Random(SEED))))


def _chitchat() -> list[Conversation]:
    from chitchat_dataset import Dataset

    return [_turns(each["messages"]) for each in Dataset().values()]


def _turns(turns: list[list[dict[str, str]]]) -> Conversation:
    """Give the first speaker the role of the user, the second that of the assistant."""
    lines = [line for turn in turns for line in turn]
    first = lines[0]["sender"] if lines else ""
    return [
        {"role": "user" if line["sender"] == first else "assistant", "content": line["text"]}
        for line in lines
    ]


def _generated(chance: random.Random) -> Iterator[Conversation]:
    """Make conversations of about tau-bench's shape: 26 messages of some 600 bytes."""
    words = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9)))
        for _ in range(4_000)
    ]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    for number in range(GENERATED_CONVERSATIONS):
        made: Conversation = []
        for turn in range(26):
            content = " ".join(chance.choices(words, weights, k=chance.randint(20, 160)))
            line = {"role": "assistant" if turn % 2 else "user", "content": content}
            if turn % 4 == 1:
                call = {"name": "look_up", "arguments": f'{{"number": {number}}}'}
                asked = {"id": f"{number}-{turn + 1}", "type": "function", "function": call}
                line["tool_calls"] = [asked]
            if turn % 4 == 2:
                line = {"role": "tool", "tool_call_id": f"{number}-{turn}", "content": content}
            made.append(line)
        yield made
