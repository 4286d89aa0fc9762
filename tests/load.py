"""The load: thousands of sessions, each written to by threads, tasks and another process at once.

Invariants: each message carries who said it and as which of theirs; what was acknowledged is kept
with the session that took it; a caller whose session has ended goes on in the next one of the
same key; pruning, summaries and cleanup run all the while, in both processes.

Run as a program it is the other process: it says `ready`, waits for a line, and prints as JSON
what was acknowledged.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from eventstore import SessionDeleted, SessionExpired
from eventstore.sessions import SessionManager, Settings

KINDS = ("trimmed", "summarised", "timed", "short")
"""What a session is, by its chat's number: see options()."""

KEPT = 12
"""Messages that a trimmed session shows at most."""

CALLERS = ("threads", "tasks", "process")

Said = tuple[str, str, int]
"""(session, caller, number) of a message that was acknowledged."""


class Size(msgspec.Struct, frozen=True):
    """How much: sessions, messages in each, threads of a process; `ttl` of short ones, seconds."""

    path: str
    chats: int
    messages: int
    threads: int
    ttl: float
    interval: float

    def share(self, caller: str) -> int:
        """Return how many of a session's messages a caller says."""
        return len(range(CALLERS.index(caller), self.messages, len(CALLERS)))


def kind(chat: int) -> str:
    """Return what the sessions of a chat are."""
    return KINDS[chat % len(KINDS)]


def opened(size: Size) -> SessionManager:
    """Return a manager with everything that runs in the background at work."""
    settings = Settings(
        path=size.path,
        token_limit=None,
        cleanup_interval=size.interval,
        cleanup_batch=50,
        max_messages_total=size.chats * size.messages,
        cache_sessions=max(size.chats // 2, 1),
    )
    return SessionManager.open(settings=settings).start()


def options(size: Size, chat: int) -> dict:
    """Return what a chat's session is created with."""
    made = {"metadata": {"kind": kind(chat)}}
    if kind(chat) == "trimmed":
        made["max_messages"] = KEPT
    if kind(chat) == "summarised":
        made["token_limit"] = size.messages * 6
    if kind(chat) == "short":
        made["ttl"] = size.ttl
    return made


def turns(size: Size, caller: str, chat: int) -> Iterator[list[dict]]:
    """Iterate over what a caller says in a chat, one atomic append each: texts, calls, results."""
    said = [message(caller, chat, number) for number in range(size.share(caller))]
    number = 0
    while number < len(said):
        count = 1
        if number % 5 == 3 and number + 1 < len(said):
            call, count = f"{caller}-{number}", 2
            asked = {"role": "assistant", "tool_calls": [{"id": call, "function": {"name": "f"}}]}
            said[number] |= asked
            said[number + 1] |= {"role": "tool", "tool_call_id": call}
        yield said[number : number + count]
        number += count


def message(caller: str, chat: int, number: int) -> dict:
    """Return a caller's message; its first is important, some of timed sessions soon go."""
    said = {"role": "user", "content": f"{caller} says {number} in {chat}", "by": [caller, number]}
    if number == 0:
        return said | {"metadata": {"important": True}}
    if kind(chat) == "timed" and number % 4 == 1:
        return said | {"metadata": {"ttl": 0.01}}
    return said


def say(manager: SessionManager, size: Size, caller: str, chat: int, turn: list[dict]) -> str:
    """Say a turn in the session that the chat has now; return that session."""
    while True:
        found = manager.find_or_create(interface="load", chat=chat, **options(size, chat))
        try:
            return manager.add_messages(found.name, turn).session
        except (SessionDeleted, SessionExpired):  # it ended just now
            continue


async def asay(manager: SessionManager, size: Size, caller: str, chat: int, turn: list) -> str:
    """Say a turn by the async face."""
    while True:
        found = await manager.aio.find_or_create(interface="load", chat=chat, **options(size, chat))
        try:
            return (await manager.aio.add_messages(found.name, turn)).session
        except (SessionDeleted, SessionExpired):
            continue


def in_threads(manager: SessionManager, size: Size, caller: str) -> list[Said]:
    """Let threads say everything of a caller, each in every so many-th chat, turn by turn."""

    def work(first: int) -> list[Said]:
        chats = range(first, size.chats, size.threads)
        rounds = zip(*(turns(size, caller, chat) for chat in chats), strict=True)
        return [
            (session, caller, each["by"][1])
            for spoken in rounds
            for chat, turn in zip(chats, spoken, strict=True)
            for session in [say(manager, size, caller, chat, turn)]
            for each in turn
        ]

    with ThreadPoolExecutor(size.threads) as pool:
        return [each for said in pool.map(work, range(size.threads)) for each in said]


async def in_tasks(manager: SessionManager, size: Size, caller: str) -> list[Said]:
    """Let a task for each chat say everything of a caller there."""

    async def work(chat: int) -> list[Said]:
        said = []
        for turn in turns(size, caller, chat):
            session = await asay(manager, size, caller, chat, turn)
            said += [(session, caller, each["by"][1]) for each in turn]
        return said

    found = await asyncio.gather(*map(work, range(size.chats)))
    return [each for said in found for each in said]


def run(manager: SessionManager, size: Size) -> list[Said]:
    """Let threads, tasks and another process say everything at once; return what was taken."""
    pipe, given = subprocess.PIPE, msgspec.json.encode(size).decode()
    command = [sys.executable, __file__, given]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as other:
        if other.stdout.readline() != "ready\n":
            raise AssertionError(other.communicate()[1])
        other.stdin.write("go\n")
        other.stdin.flush()
        with ThreadPoolExecutor(2) as pool:
            threads = pool.submit(in_threads, manager, size, "threads")
            answer = pool.submit(other.communicate)
            said = asyncio.run(in_tasks(manager, size, "tasks")) + threads.result()
            printed, errors = answer.result()
    if other.returncode:
        raise AssertionError(errors)
    return said + [tuple(each) for each in json.loads(printed)]


def main() -> None:
    """Be the other process."""
    size = msgspec.json.decode(sys.argv[1], type=Size)
    with opened(size) as manager:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(in_threads(manager, size, "process")))


if __name__ == "__main__":
    main()
