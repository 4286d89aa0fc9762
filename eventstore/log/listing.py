"""Names in order, out of an encrypted log whose rows are in the order of their ciphertext.

Invariants: memory is bounded by one window of names, however many there are; a window is used
until there is a new name, since names are only ever added.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from heapq import nsmallest

WINDOW_NAMES = 100_000
"""Names that are put in order together, about 10 MB."""


class Listing:
    """The names behind one of them, the first WINDOW_NAMES in order."""

    def __init__(self) -> None:
        self._total, self._after = -1, ""
        self._names: list[str] = []
        self._whole = False

    def page(
        self, total: int, after: str, size: int, names: Callable[[], Iterable[str]]
    ) -> list[str]:
        """Return the first `size` names behind `after`, sorted by UTF-8 bytes as text sorts.

        `total` is how many names the log has now; `names` gives them in any order.
        """
        if total != self._total or not self._covers(after):
            found = nsmallest(WINDOW_NAMES, (name for name in names() if name > after))
            self._total, self._after, self._names = total, after, found
            self._whole = len(found) < WINDOW_NAMES
        start = bisect_right(self._names, after)
        return self._names[start : start + size]

    def _covers(self, after: str) -> bool:
        return self._after <= after and (self._whole or after < self._names[-1])
