"""A disk that forgets: rebuilds what a crash may leave of the files that a writer changed.

Invariants: a write is durable once a sync that began after it has ended, or when it returns where
its descriptor syncs; a name is durable once its directory was synced, the name of a synced file
no earlier than that; whatever else was asked for may be on the disk or not, in any combination,
and a write of several sectors in part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from recorder import Call, Change, Name, Recording, Resize, Said, Sync, Write

SECTOR_BYTES = 512

Image = dict[str, bytes | None]
"""The files of a crash state by their paths below the root, None for a directory."""


@dataclass
class Pending:
    """A change of a node that is not surely on the disk, unless `kept`."""

    begin: int
    end: int
    change: Write | Resize | Name
    kept: bool = False


@dataclass
class Node:
    """A file or a directory: what is durable of it, and what was asked for since then."""

    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)

    def settle(self) -> None:
        """Take over what nothing older and unsure can overwrite any more."""
        while self.pending and self.pending[0].kept:
            self.apply(self.pending.pop(0).change)

    def apply(self, change: Change) -> None:
        """Make a change as if it were on the disk."""
        if isinstance(change, Name):
            rename(self.names, change)
        elif isinstance(change, Resize):
            resize(self.content, change.size)
        elif isinstance(change, Write):
            write(self.content, change.offset, change.data)


def write(content: bytearray, offset: int, data: bytes) -> None:
    """Write into a file; a gap before the offset is zeros."""
    if len(content) < offset:
        resize(content, offset)
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Cut or extend a file."""
    if size < len(content):
        del content[size:]
    content.extend(bytes(size - len(content)))


def rename(names: dict[str, int], change: Name) -> None:
    """Take a name away and give one, at once."""
    if change.old is not None:
        names.pop(change.old, None)
    if change.new is not None:
        names[change.new] = change.child


class Disk:
    """The disk as a recording goes on, moment by moment."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._nodes: dict[int, Node] = {}
        self.said: list[str] = []
        self.change: Change | None = None
        """What began at this moment, None where something ended."""
        self.settled = 0
        """How many lines were said before the newest commit that is on the disk."""

    def moments(self) -> Iterator[int]:
        """Go on by one begin or end of a call at a time; gives the number of each moment.

        A print counts when it begins, for then its writer was told already; a sync when it ends.
        """
        calls = self._recording.calls
        begins = [(call.begin, 0, call) for call in calls]
        ends = [(call.end, 1, call) for call in calls if has_end(call.change)]
        for number, (_, ended, call) in enumerate(sorted(begins + ends, key=lambda each: each[:2])):
            self.change = None if ended else call.change
            if ended:
                self._end(call)
            else:
                self._begin(call)
            yield number

    def _node(self, node: int) -> Node:
        return self._nodes.setdefault(node, Node())

    def _begin(self, call: Call) -> None:
        change = call.change
        if isinstance(change, Said):
            self.said.append(change.line)
        elif not isinstance(change, Sync):
            self._node(change.node).pending.append(Pending(call.begin, call.end, change))

    def _end(self, call: Call) -> None:
        node = self._node(call.change.node)
        for each in node.pending:
            is_it = each.change is call.change
            if is_it or (isinstance(call.change, Sync) and each.end < call.begin):
                each.kept = True
        node.settle()
        if isinstance(call.change, Write) and call.change.node in self._recording.logs:
            self.settled = len(self.said)

    # -- images ------------------------------------------------------------------------------

    def everything(self) -> Image:
        """Return the image in which all that was asked for is there, as after a kill."""
        return self._image(lambda _: True, lambda each: [each.change], None)

    def nothing(self) -> Image:
        """Return the image in which nothing is there that need not be."""
        return self._image(lambda each: each.kept, lambda _: [], None)

    def drawn(self, random: Random) -> Image:
        """Return an image drawn from all that a crash may leave."""
        return self._image(self._names(random), drawn_part(random), random)

    def _names(self, random: Random) -> Callable[[Pending], bool]:
        """Draw which names are there: all, none unsure, those before a moment, or any of them."""
        way = random.randrange(4)
        begins = sorted(each.begin for node in self._nodes.values() for each in node.pending)
        stop = random.choice(begins) if begins else 0
        return lambda each: (
            each.kept
            or way == 0
            or (way == 1 and each.begin < stop)
            or (way == 2 and random.random() < 0.5)
        )

    def _image(
        self,
        named: Callable[[Pending], bool],
        part: Callable[[Pending], list[Change]],
        random: Random | None,
    ) -> Image:
        image: Image = {}
        directories = [(0, "")]
        while directories:
            number, path = directories.pop()
            names = dict(self._node(number).names)
            for each in self._node(number).pending:
                if named(each):
                    rename(names, each.change)
            for name, child in names.items():
                if child in self._recording.directories:
                    image[path + name] = None
                    directories.append((child, f"{path}{name}/"))
                elif child not in self._recording.locks:
                    image[path + name] = self._content(child, part)
                elif random is not None and random.random() < 0.5:
                    image[path + name] = random.randbytes(8_192)  # others' slots, or a torn file
        return image

    def _content(self, number: int, part: Callable[[Pending], list[Change]]) -> bytes:
        node = self._node(number)
        found = Node(bytearray(node.content))
        for each in node.pending:
            for change in [each.change] if each.kept else part(each):
                found.apply(change)
        return bytes(found.content)


def has_end(change: Change) -> bool:
    """Return True for what makes something durable by coming back."""
    return isinstance(change, Sync) or (isinstance(change, Write) and change.synced)


def drawn_part(random: Random) -> Callable[[Pending], list[Change]]:
    """Return what is left of an unsure change: all, nothing, some sectors, or only the size."""
    keep = random.choice((0.1, 0.5, 0.9))

    def part(pending: Pending) -> list[Change]:
        chance, change = random.random(), pending.change
        if chance < keep:
            return [change]
        if not isinstance(change, Write) or random.randrange(3) == 0:
            return []
        return list(torn(change, random, random.choice((0.0, 0.5))))

    return part


def torn(change: Write, random: Random, keep: float) -> Iterator[Write]:
    """Iterate over the sectors of a write that are there; a file that it extended is longer."""
    stop = change.offset + len(change.data)
    at = change.offset
    while at < stop:
        following = min(at - at % SECTOR_BYTES + SECTOR_BYTES, stop)
        if random.random() < keep:
            data = change.data[at - change.offset : following - change.offset]
            yield Write(change.node, at, data, change.synced)
        at = following
    yield Write(change.node, stop, b"", change.synced)
