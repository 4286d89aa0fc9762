"""What a verification found: named damage, what was checked, and the verdict.

Invariants: a store is sound exactly when nothing was found; a finding names the position it is
at, or -1 and the row, table or page; the first FINDINGS_MAX are listed and the rest counted, so
that a report is bounded whatever the store looks like.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from ..errors import Corruption, EventStoreError

FINDINGS_MAX = 1_000
"""Findings that a report lists."""


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """Damage at a position of the log, or at -1 in what is named."""

    position: int
    what: str

    def __str__(self) -> str:
        return f"position {self.position}: {self.what}" if self.position >= 0 else self.what


class Report(msgspec.Struct, frozen=True):
    """The result: the log's size and root (hex) as its head states them, and the findings.

    `unlisted` counts findings beyond FINDINGS_MAX; `checked` counts what was looked at, by name.
    """

    size: int
    root: str
    findings: list[Finding]
    unlisted: int = 0
    checked: dict[str, int] = {}

    @property
    def sound(self) -> bool:
        """True if nothing was found."""
        return not self.findings


class Notes:
    """A report in the making."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.unlisted = 0
        self.checked: Counter[str] = Counter()

    def add(self, position: int, what: str) -> None:
        """Note damage."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(position, what))
        else:
            self.unlisted += 1

    def take(self, findings: Iterable[Finding]) -> None:
        """Note what somebody else found."""
        for each in findings:
            self.add(each.position, each.what)

    def add_error(self, error: EventStoreError, position: int = -1) -> None:
        """Note damage that a reader raised; its own position goes before `position`."""
        if isinstance(error, Corruption):
            self.add(error.position if error.position >= 0 else position, error.what)
        else:
            self.add(position, str(error))

    def report(self, size: int = 0, root: str = "") -> Report:
        """Return the report."""
        return Report(size, root, self.findings, self.unlisted, dict(self.checked))
