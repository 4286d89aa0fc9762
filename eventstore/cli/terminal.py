"""The terminal: what a command reads from, writes to, and which store it is about.

Invariants: answers go to stdout, and with `--json` nothing but JSON does; progress and errors go
to stderr; text out of the store is made printable first, so that it can't command the terminal.
"""

import io
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, TextIO

import msgspec
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from projections import Views

from .. import EventStore, InvalidEvent, Keyring, StoreFull
from ..audit.trust import audit_directory
from ..ids import fresh_id
from ..limits import APPEND_BYTES_MAX
from ..messages import Json
from ..place.directory import INCREMENTS, check_store, is_backup
from .drawing import Pen
from .piped import lines

PROGRESS_AFTER_SECONDS = 1.0
"""What takes less is over before a bar could be read."""

WIDTH_PIPED = 1 << 16
"""Columns for what draws itself where there is no screen: no name in a tree comes near."""

STDERR = 2
"""The last of the three files that a process begins with."""

NUMBER_DIGITS_MAX = 19
"""Digits of a number that can be typed: the largest position has 63 bits."""


class Advance(Protocol):
    """Takes how much is done, and of how much; None where nobody knows."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show it."""


class _Console(Console):
    """A console that reports a closed pipe instead of deciding what it means."""

    def on_broken_pipe(self) -> NoReturn:
        """Let the command end; app.py makes it a quiet end."""
        raise BrokenPipeError


class _Count(ProgressColumn):
    """How much is done, and of how much, where somebody knows."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        told = f"{task.completed:,.0f}" if task.completed or task.total else ""
        return Text(f"{told} of {task.total:,.0f}" if task.total else told, "green")


class Terminal:
    """One run's standard streams and store; `json` is the voice for machines.

    `chosen` is the store where the command line names it, None where it is a default; `audit`
    the directory of its keys and kept heads, outside of it.
    """

    def __init__(
        self,
        path: Path,
        *,
        json: bool,
        chosen: Path | None = None,
        keyring: Path | None = None,
        audit: Path | None = None,
    ) -> None:
        self.path, self.json, self.chosen = path, json, chosen
        self.keyring, self._trust = keyring, audit
        self.audit = audit or audit_directory(path)
        self.pen = Pen(screen=sys.stdout.isatty())
        self.out = _Console(highlight=False, width=None if self.pen.screen else WIDTH_PIPED)
        self.err = _Console(stderr=True, highlight=False)

    # -- the store -----------------------------------------------------------------------

    def open(self, *, read_only: bool = False, **options: Any) -> EventStore:
        """Open the store with the keys and the kept head that belong to it; see EventStore.open."""
        # A directory that is still to be made, by keygen, can't be asked yet.
        trust = self._trust if self._trust and self._trust.exists() else None
        keys = self.keys()
        store = EventStore.open(
            self.path, read_only=read_only, trust=trust, keyring=keys, **options
        )
        if read_only and any((self.path / INCREMENTS).glob("[0-9]*")):
            self.warn("this is the full backup alone; restore it to see its increments too")
        if store.distrust is not None:
            self.warn(str(store.distrust))
        return store

    def keys(self) -> Keyring | None:
        """Return the keyring that is named, None for none; no file is touched yet."""
        return None if self.keyring is None else Keyring.file(self.keyring)

    @contextmanager
    def reading(self) -> Iterator[EventStore]:
        """Open the store to read; never makes one, never waits for a writer."""
        with self.open(read_only=True) as store:
            yield store

    @contextmanager
    def looking(self) -> Iterator[EventStore]:
        """Open the store to read, and to keep its views where they may be: not in a backup."""
        check_store(self.path)
        read_only = is_backup(self.path) or not os.access(self.path, os.W_OK)
        with self._opened_to_look(read_only=read_only) as store:
            yield store

    def _opened_to_look(self, *, read_only: bool) -> EventStore:
        """Open the store read-only also where there is no room for anything else."""
        try:
            return self.open(read_only=read_only)
        except StoreFull:
            return self.open(read_only=True)

    @contextmanager
    def viewing(self) -> Iterator[Views]:
        """Open the store's views: kept beside it, or made anew where it may not be written."""
        with self.looking() as store, self.progress("catching up"):
            yield Views(store)

    @contextmanager
    def writing(self, *, creates: bool = False, **options: Any) -> Iterator[EventStore]:
        """Open the store to write; only where `creates` is set one is made."""
        if not creates:
            check_store(self.path)
        with self.open(**options) as store:
            yield store

    @property
    def limited(self) -> bool:
        """True on a screen, where long answers show a part unless they are asked for more."""
        return self.pen.screen and not self.json

    # -- answers -------------------------------------------------------------------------

    def answer(self, document: object, *drawn: RenderableType) -> None:
        """Print one answer: as one line of JSON, or as it is drawn."""
        if self.json:
            write_json(document)
        else:
            self.draw(*drawn)

    def draw(self, *drawn: RenderableType) -> None:
        """Print for people: on a screen as it fits, else line by line, whole."""
        for each in drawn if self.pen.screen else chain.from_iterable(map(lines, drawn)):
            if isinstance(each, Text):  # what print() joins loses these two
                crop = each.overflow != "ignore"
                self.out.print(each, no_wrap=each.no_wrap, overflow=each.overflow, crop=crop)
            else:
                self.out.print(each)

    def warn(self, text: str) -> None:
        """Tell people and logs what is wrong, while the command goes on."""
        self.err.print(f"eventstore: warning: {text}", style="red", markup=False, soft_wrap=True)

    def remark(self, text: str) -> None:
        """Tell people something that is no part of the answer."""
        if not self.json:
            self.err.print(text, style="dim", markup=False, soft_wrap=True)

    # -- progress ------------------------------------------------------------------------

    @contextmanager
    def progress(self, label: str) -> Iterator[Advance]:
        """Show a bar on stderr for what takes more than a second; it disappears at the end."""
        if self.json or not self.err.is_terminal:
            yield _nothing
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Count(),
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=self.err, transient=True, expand=True)
        task = bar.add_task(label, total=None)
        late = threading.Timer(PROGRESS_AFTER_SECONDS, bar.start)
        late.start()
        try:
            yield lambda done, total=None: bar.update(task, completed=done, total=total)
        finally:
            late.cancel()
            late.join()  # else it might start what has just been stopped
            bar.stop()


def _nothing(done: int, total: int | None = None) -> None:  # noqa: ARG001 - nobody is watching
    return


# -- JSON ------------------------------------------------------------------------------


def write_json(document: object, stream: TextIO | None = None) -> None:
    """Write one line of JSON to stdout or another stream, in UTF-8 whatever the locale."""
    out = stream or sys.stdout
    out.flush()
    out.buffer.write(msgspec.json.encode(document) + b"\n")
    out.buffer.flush()


def binary_stdout() -> BinaryIO:
    """Return stdout for bytes, after what text it holds."""
    sys.stdout.flush()
    return sys.stdout.buffer


@contextmanager
def written(output: Path | None, *, force: bool) -> Iterator[BinaryIO]:
    """Give a file that gets its name only when it is complete, or stdout."""
    if output is None:
        yield binary_stdout()
        return
    if output.is_dir():
        raise InvalidEvent(f"{output} is a directory; name a file")
    if output.exists() and not force:
        raise InvalidEvent(f"{output} exists already; --force replaces it")
    if not output.parent.is_dir():
        raise InvalidEvent(f"{output}: there is no directory {output.parent}")
    made = output.with_name(f".{fresh_id()}.part")
    try:
        with made.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        made.replace(output)
    except OSError as error:
        error.filename = error.filename or str(output)  # what a write runs into has none
        raise
    finally:
        made.unlink(missing_ok=True)


def write_lines(documents: Iterable[object]) -> None:
    """Write JSON lines as they come; each is on its way before the next is made."""
    for document in documents:
        write_json(document)


def parse_json(text: str, what: str) -> Json:
    """Return the JSON value of a text. Raises InvalidEvent that starts with `what`."""
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise InvalidEvent(f"{what} is nested too deep") from None
    except ValueError as error:
        raise InvalidEvent(f"{what} is not JSON: {error}") from None


def parse_number(text: str) -> int | None:
    """Return what up to NUMBER_DIGITS_MAX decimal digits stand for, None for any other text."""
    plain = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
    return int(text) if plain else None


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def read_stdin() -> str:
    """Return all of standard input. Raises InvalidEvent for other than UTF-8, or too much."""
    given = sys.stdin.buffer.read(APPEND_BYTES_MAX + 1)
    if len(given) > APPEND_BYTES_MAX:
        raise InvalidEvent(f"standard input is over the limit of {APPEND_BYTES_MAX} bytes")
    try:
        return given.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"standard input is not UTF-8 at byte {error.start}") from None


def complete_streams() -> None:
    """Give this process standard streams that take any text, whatever it was started with.

    One that is closed becomes nothing to read or write: else the next file that is opened, a
    store's perhaps, would get its number. What the encoding of stdout lacks is shown as a "?".
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        continue
    os.close(number)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 - as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def hang_up() -> None:
    """Point stdout at nothing, so that the interpreter's last flush fails quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
