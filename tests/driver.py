"""Random commands: a list of drawn numbers becomes a history with everything in it.

Invariants: the same numbers make the same facts; a command that the store refuses, as it must
now and then, leaves the history as it was.
"""

# ruff: noqa: ARG002 - every command takes the three numbers of its step, needed or not

from itertools import count
from random import Random

from hypothesis import strategies as st

from eventstore import EventStore, EventStoreError
from eventstore.state.header import SessionHeader
from eventstore.state.lineage import fold_segments, lineage

ROLES = ("user", "assistant", "system", "tool", "critic")
STRATEGIES = ("append", "adopt", "interleave", "squash")
RULES = ("error", "ours", "theirs")
START, TICK = 1_700_000_000_000_000_000, 9_000_000_000_000

Step = tuple[str, int, int, int]


def ticking():
    """Return a clock that moves on two and a half hours a look."""
    return count(START, TICK).__next__


def message(number: int) -> dict:
    """Return a message; some have a role without a code."""
    return {"role": ROLES[number % 5], "content": "word " * (number % 7)}


class Driver:
    """Runs steps on a store; `sessions` are those it made."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.sessions: list[str] = []

    def run(self, step: Step) -> None:
        """Run one step, or nothing where the store refuses it."""
        name, a, b, c = step
        if not self.sessions or name == "create":
            self.create(a, b, c)
            return
        try:
            getattr(self, name)(self.pick(a), b, c)
        except EventStoreError:
            return

    def pick(self, number: int) -> str:
        return self.sessions[number % len(self.sessions)]

    def create(self, a: int, b: int, c: int) -> None:
        name = f"s{len(self.sessions)}"
        self.store.create(name, user=f"u{a % 3}", metadata={"topic": b % 3, "n": {"x": c}})
        self.sessions.append(name)

    def append(self, session: str, b: int, c: int) -> None:
        when = START - c * 3 * TICK if c % 3 == 0 else None
        self.store.append(session, message(b), occurred_at=when)

    def append_many(self, session: str, b: int, c: int) -> None:
        times = [None if (b + i) % 2 else START + i * c * TICK for i in range(1 + b % 5)]
        self.store.append(
            session,
            [message(b + i) for i in range(len(times))],
            occurred_at=times if c % 2 else None,
        )

    def branch(self, session: str, b: int, c: int) -> None:
        name = f"s{len(self.sessions)}"
        at = b % (self.store.version(session) + 1) if c % 3 else None
        self.store.branch(session, name, at=at, name=f"try {b}" if b % 2 else None)
        self.sessions.append(name)

    def merge(self, session: str, b: int, c: int) -> None:
        strategy = STRATEGIES[c % 4]
        summary = "in short" if strategy == "squash" else None
        self.store.merge(
            session, into=self.pick(b), strategy=strategy, on_conflict=RULES[c % 3], summary=summary
        )

    def prune(self, session: str, b: int, c: int) -> None:
        self.store.prune(session, keep_last=b % 4)

    def prune_one(self, session: str, b: int, c: int) -> None:
        self.store.prune(session, messages=[f"{session}#{b % (self.store.version(session) + 1)}"])

    def summarize(self, session: str, b: int, c: int) -> None:
        self.store.summarize(session, "so far", upto=b % (self.store.version(session) + 1))

    def rewind(self, session: str, b: int, c: int) -> None:
        self.store.rewind(session, b % (self.store.version(session) + 1))

    def undo(self, session: str, b: int, c: int) -> None:
        self.store.undo(session)

    def metadata(self, session: str, b: int, c: int) -> None:
        self.store.update_metadata(session, {"topic": b % 3 or None, "n": {"y": c % 2 or None}})

    def context(self, session: str, b: int, c: int) -> None:
        self.store.set_context(session, f"k{b % 2}", c % 3 or None)

    def tool(self, session: str, b: int, c: int) -> None:
        error = "broke" if c % 2 else None
        self.store.record_tool_call(session, f"tool{b % 2}", error=error, duration_ms=c)

    def error(self, session: str, b: int, c: int) -> None:
        self.store.record_error(session, f"kind{b % 2}")

    def custom(self, session: str, b: int, c: int) -> None:
        self.store.record(session, "noted", {"b": b})

    def status(self, session: str, b: int, c: int) -> None:
        commands = (self.store.close, self.store.reopen, self.store.archive, self.store.reopen)
        commands[b % 4](session)

    def delete(self, session: str, b: int, c: int) -> None:
        self.store.delete(session)

    def ttl(self, session: str, b: int, c: int) -> None:
        self.store.extend_ttl(session, 10**6 if b % 2 else None)


COMMANDS = (
    *("append", "append_many") * 4,
    *("create", "branch", "merge", "rewind", "undo") * 2,
    *("prune", "prune_one", "summarize", "metadata", "context", "tool", "error", "custom"),
    *("status", "status", "delete", "ttl"),
)


def steps_of(seed: int, length: int) -> list[Step]:
    """Return the steps of a seed: a longer list begins with the shorter one."""
    random = Random(seed)
    return [
        (random.choice(COMMANDS), *(random.randrange(30) for _ in range(3))) for _ in range(length)
    ]


STEPS = st.builds(steps_of, st.integers(0, 2**32 - 1), st.sampled_from([30, 20, 40, 5, 1]))
"""Seeds spread evenly over commands, where lists drawn one by one are mostly short ones."""


def folded(store: EventStore, session: str, version: int) -> SessionHeader:
    """Return a header by the plain fold, without snapshots."""
    _, segments = lineage(store.log, session, version)
    return fold_segments(store.log, SessionHeader(), segments)[0]
