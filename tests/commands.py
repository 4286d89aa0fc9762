"""The command line for tests: run in this process or as one of its own, and what it gave back."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventstore import EventStore
from eventstore.cli import run

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONWARNINGS": "error",
    "COLUMNS": "80",
}
COMMAND = [sys.executable, "-m", "eventstore.cli"]

LINES = (
    b'{"role":"user","content":"hi"}\n\n{"role":"assistant","content":"ho","x":[1,{"y":null}]}\n'
)
"""Two messages as JSON lines, with an empty line between them."""

READS = [
    ["show", "a"],
    ["log"],
    ["log", "a"],
    ["tail"],
    ["sessions"],
    ["tree", "a"],
    ["diff", "a", "b"],
    ["blame", "a"],
    ["stats"],
    ["stats", "a"],
    ["verify"],
]
"""Commands that only look, for a store with a session `a`."""


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs command lines in this process, against one store."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch):
        self.store, self._capsys, self._patch = store, capsys, patch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        code = run(["--store", str(self.store), *arguments])
        return Ended(code, *self._capsys.readouterr())

    def fine(self, *arguments: str, stdin: bytes = b"") -> Ended:
        ended = self(*arguments, stdin=stdin)
        assert (ended.code, ended.err) == (0, ""), (arguments, ended)
        return ended

    def refused(self, code: int, *arguments: str, stdin: bytes = b"") -> str:
        """Run what must fail: one line on stderr, nothing on stdout, nothing written."""
        before = self.size()
        ended = self(*arguments, stdin=stdin)
        assert ended.code == code, ended
        assert ended.out == ""
        assert ended.err.startswith("eventstore: ")
        assert ended.err.count("\n") == 1, ended.err
        assert self.size() == before
        return ended.err

    def size(self) -> int:
        if not self.store.exists():
            return 0
        with EventStore.open(self.store, read_only=True) as store:
            return store.head().size

    def texts(self, session: str, *moment: str) -> list[str]:
        shown = self.fine("show", session, "--json", *moment).json
        return [message["content"] for message in shown["messages"]]


def on_screen(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let commands in this process draw for a terminal that has so many columns and no colours."""
    for name, value in {"COLUMNS": str(columns), "LINES": "25", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def start(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a command line as a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**ENVIRONMENT, **(environment or {})},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
