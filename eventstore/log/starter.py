"""Makes the starter dictionary: what zstd knows of sessions before a store has any of its own.

- Nobody's data: every sample is composed of the lines of `phrases.txt` and the shapes below.
- Repeatable: one seed, no clock, no environment; the same libzstd makes the same bytes.
- A store keeps its own copy from birth, so a better starter changes no store that exists.

Run as `python -m eventstore.log.starter OUT`.
"""

import json
import re
import string
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import zstandard

from ..limits import KIB

DICTIONARY_BYTES = 64 * KIB

SEED = 1
SAMPLES = 30_000
LEVEL = 3
"""The compression level that the dictionary is tuned for: the codec's."""
SEQUENCE_BYTES = 6
"""zstd's `d`: the length of the pieces whose frequency decides what is worth keeping."""
STEPS = 40
"""How many segment lengths zstd's trainer compares; takes seconds."""

SLOT = re.compile(r"\{(\w+)\}")

ALPHABETS = {
    "#": string.digits,
    "+": "123456789",
    "^": "012345",
    "%": "0123456789abcdef",
    "@": string.ascii_uppercase,
    "*": string.ascii_letters + string.digits,
}

SHAPES = {
    "n1": "+",
    "n2": "+#",
    "n3": "+##",
    "n4": "+###",
    "n10": "+#########",
    "day": "1#",
    "date": "202#-0+-1#",
    "birth": "19##-0+-2#",
    "time": "1#:^5:00",
    "clock": "1^:^0 AM",
    "iso": "202#-0+-1#T1#:^#:^#.######Z",
    "isonaive": "202#-0+-2#T0#:^#:^#",
    "epoch": "17########",
    "ns": "17#################",
    "price": "+#.99",
    "zip": "+####",
    "phone": "+1-###-555-01##",
    "flight": "@@+##",
    "pnr": "@@@@@@",
    "order": "ORD-+#####",
    "ticket": "TCK-+####",
    "tracking": "1Z###########",
    "hex8": "%%%%%%%%",
    "uuid": "%%%%%%%%-%%%%-4%%%-a%%%-%%%%%%%%%%%%",
    "call": "call_************************",
    "use": "toolu_01**********************",
    "said": "msg_%%%%%%%%%%%%%%%%%%%%%%%%",
}
"""What a slot looks like where no list in `phrases.txt` says so; see ALPHABETS."""

TOPICS = ("travel", "shop", "code", "ask")

Json = dict[str, Any]


def parse(text: str) -> dict[str, list[str]]:
    """Return the lists of `phrases.txt` by heading: lines under `[name]`, words under `{name}`."""
    lists = {}
    for block in re.split(r"\n\n(?=[\[{])", text)[1:]:
        heading, _, body = block.partition("\n")
        if heading[0] == "[":
            lists[heading[1:-1]] = [unescape(line) for line in body.strip().split("\n")]
        else:
            lists[heading[1:-1]] = " ".join(body.split()).split(", ")
    return lists


def unescape(line: str) -> str:
    """Return the line with the breaks and tabs that it only names."""
    return line.replace(r"\n", "\n").replace(r"\t", "\t")


class Author:
    """Draws lines and fills their slots; holds all the randomness there is."""

    def __init__(self, lists: dict[str, list[str]], seed: int) -> None:
        self.lists = lists
        self.random = Random(seed)

    def chance(self, percent: int) -> bool:
        """Return True in so many of a hundred cases."""
        return self.random.randrange(100) < percent

    def line(self, name: str) -> str:
        """Return a line or word of a list, its slots filled."""
        return self.fill(self.random.choice(self.lists[name]))

    def lines(self, name: str, most: int) -> list[str]:
        """Return 1 to `most` different lines of a list, their slots filled."""
        drawn = self.random.sample(self.lists[name], self.random.randint(1, most))
        return [self.fill(each) for each in drawn]

    def fill(self, template: str) -> str:
        """Return the template with a fresh value in every slot."""
        return SLOT.sub(lambda slot: self.slot(slot[1]), template)

    def slot(self, name: str) -> str:
        """Return a fresh value of a shape or a list."""
        if name not in SHAPES:
            return self.line(name)
        choice = self.random.choice
        return "".join(choice(ALPHABETS.get(mark, mark)) for mark in SHAPES[name])

    def load(self, name: str) -> Any:
        """Return a line that is JSON as the value it stands for."""
        return json.loads(self.line(name), strict=False)

    def coined(self) -> str:
        """Return a word that is none: it teaches zstd how the letters of English spread."""
        left, right = self.random.sample(self.lists["word"], 2)
        return left[: len(left) // 2] + right[len(right) // 2 :]

    def ordered(self, fields: Json) -> Json:
        """Return the fields as they are or by name, since callers write both."""
        return dict(sorted(fields.items())) if self.chance(50) else fields


# -- what is said ------------------------------------------------------------------------


def question(author: Author) -> str:
    """Return what a user writes to an agent."""
    if author.chance(30):
        return author.line("user.short")
    said = author.lines("user." + author.random.choice(TOPICS), 3)
    if author.chance(20):
        said.insert(0, author.line("user.short"))
    return " ".join(said)


def answer(author: Author) -> str:
    """Return what an agent writes: an opening, the matter, perhaps a list, a closing."""
    said = author.lines("agent." + author.random.choice(TOPICS), 3)
    if author.chance(60):
        said.insert(0, author.line("opener"))
    if author.chance(40):
        said.append(listing(author))
    if author.chance(60):
        said.append(author.line("closer"))
    return author.random.choice(["\n\n", " "]).join(said)


def listing(author: Author) -> str:
    """Return a list in Markdown, numbered or not."""
    points = author.lines("bullet", 6)
    if author.chance(40):
        return "\n".join(f"{number}. {point}" for number, point in enumerate(points, 1))
    indent = author.random.choice(["", "   "])
    return "\n".join(f"{indent}- {point}" for point in points)


def tool_use(author: Author) -> tuple[str, Json, str]:
    """Return a tool's name, its arguments and what it gave back."""
    name, arguments, result = author.random.choice(author.lists["tool"]).split(" | ", 2)
    given = author.line("error") if author.chance(8) else author.fill(result)
    if given[:2] in ('{"', "[{") and author.chance(30):
        given = compact(json.loads(given, strict=False))
    return name, json.loads(author.fill(arguments), strict=False), given


def compact(value: object) -> str:
    """Return JSON without spaces, as most libraries write it; Python's has them."""
    return json.dumps(value, separators=(",", ":"))


# -- messages ----------------------------------------------------------------------------


def asked(author: Author) -> Json:
    """Return a user's message."""
    return author.ordered({"role": "user", "content": question(author)})


def answered(author: Author) -> Json:
    """Return an agent's message, at times with the model and what it used."""
    message = author.ordered({"role": "assistant", "content": answer(author)})
    if author.chance(20):
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {each: author.random.randint(10, 9999) for each in counts}
        message |= {"model": author.line("model"), "usage": usage, "finish_reason": "stop"}
    return message


def instructed(author: Author) -> Json:
    """Return a system prompt, or a word list in the place of all that users paste."""
    if author.chance(50):
        return {"role": "system", "content": " ".join(author.lines("system", 3))}
    return {"role": "user", "content": " ".join(author.lines("word", 30))}


def chatted(author: Author) -> Json:
    """Return small talk between people, known by their ids."""
    sender = author.slot("uuid")
    return {"role": "user", "content": author.line("chat"), "metadata": {"sender": sender}}


def babbled(author: Author) -> Json:
    """Return a message of words that do not exist."""
    words = (author.coined() for _ in range(author.random.randint(1, 20)))
    return {"role": "user", "content": " ".join(words)}


def called(author: Author) -> Json:
    """Return the tool call of an agent, in OpenAI's shape."""
    name, arguments, _ = tool_use(author)
    written = compact(arguments) if author.chance(70) else json.dumps(arguments)
    function = author.ordered({"name": name, "arguments": written})
    call = author.ordered({"id": author.slot("call"), "type": "function", "function": function})
    return author.ordered({"role": "assistant", "content": None, "tool_calls": [call]})


def returned(author: Author) -> Json:
    """Return the result of a tool, in OpenAI's shape."""
    name, _, result = tool_use(author)
    message = {"role": "tool", "tool_call_id": author.slot("call")}
    return message | ({"name": name} if author.chance(70) else {}) | {"content": result}


def in_parts(author: Author) -> Json:
    """Return a message in Anthropic's shape: a list of text, tool use or tool result."""
    name, arguments, result = tool_use(author)
    use = author.slot("use")
    called = {"type": "tool_use", "id": use, "name": name, "input": arguments}
    spent = {"input_tokens": author.random.randint(10, 9999), "cache_read_input_tokens": 0}
    returned = {"type": "tool_result", "tool_use_id": use, "content": result, "is_error": False}
    said = {"type": "text", "text": answer(author)}
    return author.random.choice(
        [
            {"role": "user", "content": [{"type": "text", "text": question(author)}]},
            {"role": "user", "content": [returned]},
            {"role": "assistant", "content": [said]},
            {"role": "assistant", "content": [said, called], "stop_reason": "tool_use"}
            | {"model": author.line("model"), "usage": spent | {"output_tokens": 0}},
        ]
    )


def as_run_step(author: Author) -> Json:
    """Return an item of a run in the shape of OpenAI's Responses."""
    name, arguments, result = tool_use(author)
    call_id = author.slot("call")
    called = {"type": "function_call", "call_id": call_id, "name": name, "status": "completed"}
    said = {"type": "output_text", "text": answer(author), "annotations": []}
    return author.random.choice(
        [
            {"id": author.slot("said"), "type": "message", "role": "assistant", "content": [said]}
            | {"status": "completed"},
            called | {"arguments": compact(arguments)},
            {"type": "function_call_output", "call_id": call_id, "output": result},
        ]
    )


# -- events ------------------------------------------------------------------------------


def appended(message: Callable[[Author], Json], author: Author) -> Json:
    """Return the event that such a message was said."""
    event = {"type": "MessageAppended", "message": message(author)}
    return event | ({"tokens": author.random.randint(1, 300)} if author.chance(70) else {})


def tool_recorded(author: Author) -> Json:
    """Return the event that a tool ran."""
    name, arguments, result = tool_use(author)
    event = {"type": "ToolCallRecorded", "name": name, "arguments": arguments, "result": result}
    taken = {"call_id": author.slot("call"), "duration_ms": author.random.randint(1, 9999) / 8}
    return event | taken


def error_recorded(author: Author) -> Json:
    """Return the event that something failed."""
    kind = author.random.choice(["tool_error", "model_error", "timeout"])
    return {"type": "ErrorRecorded", "kind": kind, "text": author.line("error")}


def recorded(author: Author) -> Json:
    """Return any other event."""
    event: Json = author.load("event")
    return event


MIX: dict[Callable[[Author], Json], int] = {
    partial(appended, asked): 20,
    partial(appended, answered): 24,
    partial(appended, chatted): 12,
    partial(appended, called): 12,
    partial(appended, returned): 12,
    partial(appended, in_parts): 6,
    partial(appended, as_run_step): 3,
    partial(appended, instructed): 5,
    partial(appended, babbled): 10,
    tool_recorded: 3,
    error_recorded: 2,
    recorded: 10,
}
"""How often each kind of event occurs, in proportion."""


# -- the dictionary ----------------------------------------------------------------------


def samples(count: int = SAMPLES, seed: int = SEED) -> list[bytes]:
    """Return so many payloads as a store would keep them."""
    phrases = files(__package__).joinpath("phrases.txt").read_text("utf-8")
    author = Author(parse(phrases), seed)
    makers = author.random.choices(list(MIX), list(MIX.values()), k=count)
    return [msgspec.msgpack.encode(make(author)) for make in makers]


def train(payloads: Sequence[bytes]) -> bytes:
    """Return the dictionary that serves these payloads best."""
    return zstandard.train_dictionary(
        DICTIONARY_BYTES, list(payloads), d=SEQUENCE_BYTES, steps=STEPS, level=LEVEL
    ).as_bytes()


def main(arguments: list[str]) -> int:
    """Write the dictionary to the one path given; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m eventstore.log.starter OUT\n")
        return 2
    Path(arguments[0]).write_bytes(train(samples()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
