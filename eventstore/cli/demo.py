"""The demo: the main job on real input, with every result checked against plain Python.

It imports the conversations of `chitchat-dataset`, reads every message back, branches, merges,
prunes, summarises, undoes and rewinds, replays sessions to past moments, counts, and verifies.

Invariants: what is expected comes from the source file and from the journal's plain lists, never
from the store; exit code 0 means that every check held; a store it made for itself is removed.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from projections import Views

from .. import EventStore, Recorded, StoreUnavailable
from ..audit.verify import verify
from ..clock import parse_time, to_datetime
from ..engine.reading import checked_limit
from ..errors import counted
from ..events import MessageAppended
from ..interchange.chitchat import chitchat_path, import_chitchat
from ..log.lmdb import LmdbLog
from .app import NO, START, command
from .care import compare_views
from .charts import bars, days_line, sparkline
from .drawing import pairs, size
from .journal import Entry, Journal, Replays, spread
from .stage import Stage
from .story import SHORTEST, Counts, Story
from .terminal import Terminal, write_json
from .trees import tree_drawing

STORIES = 24
"""Conversations that every kind of change is made to."""

SAMPLED = 400
"""More conversations that are replayed to past moments."""

CUTS = 8
"""Positions at which all of them are compared: consistent cuts through the whole store."""

MOMENTS_EACH = 24
"""Past moments that a changed session is replayed to."""


class Said(NamedTuple):
    """One message of the source; the time is in ns."""

    text: str
    sender: str | None
    time: int | None


class Source:
    """The conversations of the data set, decoded one by one when they are looked at."""

    def __init__(self, path: Path, limit: int | None) -> None:
        every = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        taken = islice(every.items(), checked_limit(limit))
        self._raw = {f"chitchat-{key}": raw for key, raw in taken}
        self.lengths = {session: len(self[session]) for session in self._raw}
        self._path = path if limit is None else None

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __getitem__(self, session: str) -> list[Said]:
        turns = msgspec.json.decode(self._raw[session])["messages"]
        every = (each for turn in turns for each in turn)
        return [Said(x["text"], x["sender"], parse_time(x["timestamp"])) for x in every]

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Give the file to import: the data set's own, or one with the first conversations."""
        if self._path is not None:
            yield self._path
            return
        with tempfile.NamedTemporaryFile(prefix="eventstore-demo-", suffix=".json") as made:
            few = {session.removeprefix("chitchat-"): raw for session, raw in self._raw.items()}
            made.write(msgspec.json.encode(few))
            made.flush()
            yield Path(made.name)


def _said(fact: Recorded) -> Said:
    """Return what a fact says, as the source has it."""
    fields = _fields(fact)
    return Said(fields.get("content", ""), fields.get("name"), fact.occurred_at)


def _fields(fact: Recorded) -> dict[str, Any]:
    event = fact.event
    return event.message.fields if isinstance(event, MessageAppended) else {}


@command(START)
def demo(
    terminal: Terminal,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many conversations, for a quick try.")
    ] = None,
) -> None:
    """Show it at work: 7,168 real conversations in, through every change, replayed, verified."""
    source = Source(chitchat_path(), limit)
    with _place(terminal.chosen) as place, EventStore.open(place) as store:
        held = Demo(terminal, store, source).run()
    if not held:
        raise typer.Exit(NO)


@contextmanager
def _place(chosen: Path | None) -> Iterator[Path]:
    """Give a directory for the store: the chosen one, kept, or a fresh one, removed."""
    if chosen is not None:
        if chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
            raise StoreUnavailable(f"{chosen} must be new or empty: the demo begins from nothing")
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="eventstore-demo-") as made:
        yield Path(made) / "history"


class Demo:
    """The steps, in order, and what they found."""

    def __init__(self, terminal: Terminal, store: EventStore, source: Source) -> None:
        self.terminal, self.store, self.source = terminal, store, source
        self.stage = Stage(terminal)
        self.views = Views(store)
        self.journal = Journal()
        self.messages = self.json_bytes = 0
        self.days: Counter[str] = Counter()
        self.hours: Counter[int] = Counter()
        self.stories: list[Story] = []
        self.done = Counts()

    def run(self) -> bool:
        """Run all steps and draw the summary; return whether every check held."""
        if not self.terminal.json:
            count = counted(len(self.source), "real conversation")
            self.terminal.draw(Text.assemble(("eventstore demo", "bold"), f"  {count}"), "")
        self._import()
        self._read_back()
        self._change()
        self._replay()
        self._count()
        self._verify()
        self._sum_up()
        return self.stage.held

    # -- steps ---------------------------------------------------------------------------

    def _import(self) -> None:
        """Let the importer bring the conversations in, with their own times and senders."""
        total, done = sum(self.source.lengths.values()), 0
        with self.stage.step("import", "importing") as (step, advance), self.source.file() as file:

            def more(messages: int) -> None:
                nonlocal done
                done += messages
                advance(done, total)

            found = import_chitchat(self.store, file, progress=more)
            step.says = f"{found.messages:,} messages of {found.sessions:,} conversations"
            step.check(found.messages == total, f"the source has {total:,} messages")
            step.check(found.sessions == len(self.source), f"the source has {len(self.source):,}")

    def _read_back(self) -> None:
        """Compare every message, its sender and its time with the source file."""
        chosen = self._chosen()
        with self.stage.step("read back", "reading back") as (step, advance):
            for done, session in enumerate(self.source, 1):
                said, facts = self.source[session], list(self.store.events(session, 1))
                step.check([_said(fact) for fact in facts] == said, f"{session} differs")
                self._tally(said, facts)
                if session in chosen:
                    self._note(session, said, facts)
                advance(done, len(self.source))
            step.says = "every message, sender and time equals the source file"

    def _change(self) -> None:
        """Make every kind of change to some conversations, the longest one among them."""
        told = self._told()
        with self.stage.step("change", "changing") as (step, advance):
            for number, conversation in enumerate(told):
                story = Story(self.store, self.journal, conversation, number)
                self.done = self.done.plus(story.tell())
                self.stories.append(story)
                advance(number + 1, len(told))
            step.says = ", ".join(f"{n} {what}" for what, n in self.done._asdict().items())

    def _replay(self) -> None:
        """Replay sessions to past moments; compare with what was current then."""
        replays = Replays(self.store, self.journal)
        cuts = spread([each[-1] for each in self.journal.entries.values()], CUTS)
        with self.stage.step("replay", "replaying") as (step, advance):
            for done, (session, entries) in enumerate(self.journal.entries.items(), 1):
                replays.compare_all(session, spread(entries, MOMENTS_EACH))
                for cut in cuts:
                    replays.compare(session, "position", cut.position)
                advance(done, len(self.journal.entries))
            step.wrong += replays.wrong
            step.check(replays.count, "nothing was replayed")
            step.says = f"{replays.count:,} past moments, by version, position and time"

    def _count(self) -> None:
        """Compare the statistics, kept up by a view, with what was counted by hand."""
        with self.stage.step("count", "counting") as (step, _):
            found = self.views.statistics()
            said = sum(story.said for story in self.stories)
            then = {day: found.days.get(day, 0) for day in self.days}
            step.check(found.messages == self.messages + said, f"{found.messages} messages")
            step.check(then == self.days, "messages by day differ")
            counts = Counts(
                found.branches, found.merges, found.prunes, found.summaries, self.done.undos
            )
            step.check(counts == self.done, f"{counts} instead of {self.done}")
            step.check(found.sessions == len(self.source) + found.branches, "sessions differ")
            step.says = f"{found.messages:,} messages on {len(found.days)} days"

    def _verify(self) -> None:
        """Verify every frame, index, payload, the tree, every state and every view."""
        with self.stage.step("verify", "verifying") as (step, advance):
            report = verify(
                self.store,
                deep=True,
                progress=advance,
                views=lambda store: compare_views(store, self.views),
            )
            step.wrong += [str(finding) for finding in report.findings]
            step.check(report.size == self.store.head().size, "not everything was verified")
            step.says = f"{report.size:,} facts, the tree over them, states and views"

    # -- who is looked at ----------------------------------------------------------------

    def _told(self) -> list[str]:
        """Return the conversations that get a story: the longest one, and others evenly spread."""
        lengths = self.source.lengths
        able = [each for each, length in lengths.items() if length >= SHORTEST]
        longest = sorted(able, key=lambda each: -lengths[each])[:1]
        return longest + [each for each in spread(able, STORIES) if each not in longest]

    def _chosen(self) -> set[str]:
        """Return the conversations that the journal knows."""
        return {*self._told(), *spread(list(self.source), SAMPLED)}

    def _tally(self, said: Sequence[Said], facts: Sequence[Recorded]) -> None:
        self.messages += len(said)
        self.json_bytes += sum(len(msgspec.json.encode(_fields(fact))) for fact in facts)
        moments = [to_datetime(each.time) for each in said if each.time is not None]
        self.days.update(moment.date().isoformat() for moment in moments)
        self.hours.update(moment.hour for moment in moments)

    def _note(self, session: str, said: Sequence[Said], facts: Sequence[Recorded]) -> None:
        """Let the journal know where the messages are; what they say, the source tells."""
        texts = [each.text for each in said]
        created = facts[0].position - 1
        self.journal.enter(session, Entry(0, created, facts[0].recorded_at, texts, 0))
        for lines, fact in enumerate(facts, 1):
            entry = Entry(fact.version, fact.position, fact.recorded_at, texts, lines)
            self.journal.enter(session, entry)

    # -- what it came to -----------------------------------------------------------------

    def _sum_up(self) -> None:
        """Draw the statistics, a tree and the summary; or answer all of it in JSON."""
        numbers = self._numbers()
        if self.terminal.json:
            write_json(numbers)
            return
        hours = [self.hours[hour] for hour in range(24)]
        self.terminal.draw("", Text("messages by day", "bold"), days_line(self.days))
        clock = Text.assemble((sparkline(hours), "cyan"), ("  0 to 23 h, UTC", "dim"))
        self.terminal.draw("", Text("messages by hour", "bold"), clock)
        kinds = self.views.statistics().by_type
        self.terminal.draw(
            "", Text("facts by type", "bold"), bars(self.terminal.pen, kinds, "green")
        )
        if self.stories:
            told = self.stories[0]
            tree = self.views.tree(told.session)
            heading = Text("the longest conversation and its branches", "bold")
            self.terminal.draw("", heading, tree_drawing(self.terminal.pen, tree, told.session))
        self.terminal.draw("", *summary_blocks(numbers))

    def _numbers(self) -> dict[str, Any]:
        """Return everything the summary says, for machines."""
        head = self.store.head()
        imported = self.stage.steps[0].seconds
        used = self._bytes_used()
        return {
            "held": self.stage.held,
            "conversations": len(self.source),
            "messages": self.messages,
            "facts": head.size,
            "root": head.root.hex(),
            "import_seconds": imported,
            "messages_per_second": self.messages / imported,
            "disk_bytes": used,
            "disk_bytes_per_message": used / self.messages,
            "json_bytes_per_message": self.json_bytes / self.messages,
            "peak_private_bytes": self.stage.memory.peak,
            "seconds": self.stage.seconds,
            "store": str(self.store.path),
            "kept": self.terminal.chosen is not None,
            "steps": self.stage.steps,
        }

    def _bytes_used(self) -> int:
        """Return the bytes of the log's file that are in use."""
        assert isinstance(self.store.log, LmdbLog)
        return self.store.log.env.used_bytes()


def summary_blocks(numbers: dict[str, Any]) -> list[RenderableType]:
    """Draw the summary."""
    kept = "kept" if numbers["kept"] else "removed now"
    each, plain = numbers["disk_bytes_per_message"], numbers["json_bytes_per_message"]
    rows: list[tuple[str, RenderableType]] = [
        ("facts", f"{numbers['facts']:,}"),
        ("root", numbers["root"]),
        ("import", f"{numbers['messages_per_second']:,.0f} messages a second"),
        ("disk", f"{size(numbers['disk_bytes'])}, {each:.0f} B a message; as JSON {plain:.0f} B"),
        ("memory", f"{size(numbers['peak_private_bytes'])} private at the peak"),
        ("time", f"{numbers['seconds']:.1f} s"),
        ("store", f"{numbers['store']} ({kept})"),
    ]
    if numbers["held"]:
        verdict = Text("✓ every check held", "bold green")
    else:
        verdict = Text("✗ not every check held", "bold red")
    return [pairs(rows), "", verdict]
