"""Which loose frames are facts: those that no tree leads to, held to all that the log still says.

A commit that failed, or that a power loss cut off, leaves frames on free pages whose checksums are
right for positions that others have taken since. What tells them apart:

* the leaves of the tree: a frame is proven where its own and those of whole frames around it hash
  to a kept root or to a node of the frontier;
* a head: behind the end of a log that may have lost its newest commit nothing is taken but one that
  is all there, up to the head that its frames hash to;
* what contradicts it: the chain of its session, the order of times, a neighbour that is of another
  append where one goes on with the other, the index of keys, a kept root that is sound and that no
  choice of frames hashes to;
* the times of loose frames: one that was never committed is older than all that came later.

Invariants: what is proven is never given up for what is not; what is contradicted is never taken;
what is taken though nothing proves it is named; leaves are made again only around gaps, and the
choices that are tried for one root are bounded.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import NamedTuple

from ..audit.leaves import frame_common, frame_entry
from ..audit.tree import KEPT_BITS, Frontier, leaf_hash, root_of
from ..errors import Corruption
from ..log.codec import Codec
from ..log.frame import Frame
from .salvage import Gaps, Salvage, worth

STEPS_MAX = 20_000
"""How often in all a frame is tried at a place of one subtree."""

TILES_CACHED_MAX = 1_024

Names = Callable[[Frame], bool]
"""Gives a frame its names; False where one is lost."""


class Verdict(NamedTuple):
    """Loose frames that are taken, by their positions, and the positions of those not proven."""

    taken: dict[int, Frame]
    unproven: set[int]


def judged(
    loose: Iterable[Frame], gaps: Gaps, salvage: Salvage, codec: Codec, names: Names
) -> Verdict:
    """Judge the loose frames that would stand in gaps, by all that the tree still leads to."""
    kept = Kept(salvage)
    loose = [each for each in loose if not kept.denies(each)]
    if not loose:
        return Verdict({}, set())
    known = partial(salvage.reached, codec)
    possible = _fitting(known(), loose)
    behind = list[Frame]()
    if salvage.may_end:
        behind = _committed(
            [each for each in possible if each.position >= salvage.size], salvage, names
        )
        possible = [each for each in possible if each.last_position < salvage.size]
    proof = Proof(possible, _leaves_around(known(), gaps, names), kept, names)
    proof.run()
    proven = {each.position: each for each in proof.proven}
    left = proof.open()
    if proven and left:
        left = _fitting(merged(known(), proven), left)
    chosen = {each.position: each for each in (*_chained(_newest(left)), *behind)}
    return Verdict(proven | chosen, set(chosen))


def _committed(loose: list[Frame], salvage: Salvage, names: Names) -> list[Frame]:
    """Return the frames behind the end of a log that were written with a head, all of them."""
    for time, head in salvage.heads() if loose else ():
        here = (each for each in loose if each.last_position < head.size)
        chosen = list(_newest(each for each in here if each.recorded_at <= time))[::-1]
        edge = Frontier(salvage.edge.size, salvage.edge.nodes)
        for frame in chosen:
            hashes = [each for each in _hashes(frame, names) if each is not None]
            if frame.position == edge.size and len(hashes) == frame.count:
                edge.extend(hashes)
        if (edge.size, edge.nodes) == (head.size, head.nodes):
            return chosen
    return []


def merged(known: Iterable[Frame], others: dict[int, Frame]) -> Iterator[Frame]:
    """Iterate over both in the order of their positions; where both stand at one, over the other.

    Nothing else of the others stands where known ones do.
    """
    left = sorted(others)[::-1]
    for frame in known:
        while left and left[-1] < frame.position:
            yield others[left.pop()]
        yield others[left.pop()] if left and left[-1] == frame.position else frame
    while left:
        yield others[left.pop()]


# -- what contradicts a frame ----------------------------------------------------------------


def _fitting(known: Iterable[Frame], loose: Iterable[Frame]) -> list[Frame]:
    """Return the loose frames that could stand between known ones: there and in their sessions.

    Of the known ones no more are remembered than the newest of each session in question.
    """
    queue = deque(sorted(loose, key=_position))
    waiting: dict[int, list[Frame]] = {each.session_ref: [] for each in queue}
    before: dict[int, Frame] = {}
    front, fitting = None, list[Frame]()

    def passed(position: int, behind: Frame | None) -> None:
        """Hold all that stands before a position to what came before and to what is behind."""
        while queue and queue[0].position < position:
            each = queue.popleft()
            last = before.get(each.session_ref)
            between = _agree(front, each) and _agree(each, behind)
            if between and (last is None or follows(last, each)):
                waiting[each.session_ref].append(each)

    for frame in known:
        passed(frame.position, frame)
        front = frame
        if frame.session_ref in waiting:
            fitting += [each for each in waiting[frame.session_ref] if follows(each, frame)]
            waiting[frame.session_ref] = []
            before[frame.session_ref] = frame
    while queue:
        passed(queue[-1].position + 1, None)
    return [*fitting, *(each for rest in waiting.values() for each in rest)]


def _agree(one: Frame | None, other: Frame | None) -> bool:
    """Return True where a frame may stand in front of another: by time, and if that goes on."""
    if one is None or other is None:
        return True
    beside = other.continues and other.position == one.last_position + 1
    return one.recorded_at <= other.recorded_at and (not beside or other.goes_on(one))


def follows(one: Frame, other: Frame) -> bool:
    """Return True where a frame may come later in a session than one at a lower position."""
    if other.version == one.last_version + 1:
        return other.previous == one.last_position and other.number == one.next_number()
    later = other.version > one.last_version and other.previous > one.last_position
    return later and other.number >= one.next_number()


def _newest(loose: Iterable[Frame]) -> Iterator[Frame]:
    """Iterate from the end on over frames of which none overlaps or is newer than a later one.

    Of two for one place the newer one counts: the other would have had to be committed before it.
    """
    stop: int | None = None
    order = sorted(loose, key=lambda each: (each.recorded_at, each.position, worth(each)))
    for frame in reversed(order):
        if stop is None or frame.last_position < stop:
            yield frame
            stop = frame.position


def _chained(loose: Iterable[Frame]) -> list[Frame]:
    """Return frames of which none contradicts a later one in its session; they come last first."""
    after: dict[int, Frame] = {}
    found = []
    for frame in loose:
        later = after.get(frame.session_ref)
        if later is None or follows(frame, later):
            after[frame.session_ref] = frame
            found.append(frame)
    return found


def _position(frame: Frame) -> int:
    return frame.position


# -- what proves it --------------------------------------------------------------------------


class Kept:
    """The hashes of a damaged log that leaves are held to: kept roots, and the frontier."""

    def __init__(self, salvage: Salvage) -> None:
        self._edge = _placed(salvage.edge)
        self._tile = lru_cache(TILES_CACHED_MAX)(salvage.tile)
        self._keyed = salvage.keyed

    def denies(self, frame: Frame) -> bool:
        """Return True for a frame whose key stands for an append at another position."""
        found = self._keyed(frame.kept_key) if frame.kept_key else None
        return found is not None and found[0] != frame.position

    def _node(self, level: int, index: int) -> bytes | None:
        return self._edge.get((level, index)) or self._tile(level, index)

    def nodes(self, group: int) -> list[tuple[range, bytes]]:
        """Return the positions below each hash over a group of 16 leaves, and that hash.

        One hash is over all of them, but at the end of the log.
        """
        whole = self._node(KEPT_BITS, group)
        if whole is not None:
            return [(_span(KEPT_BITS, group), whole)]
        lower = (each for each in self._edge if each[0] < KEPT_BITS)
        return [
            (_span(level, index), self._edge[level, index])
            for level, index in lower
            if index >> KEPT_BITS - level == group
        ]

    def is_sound(self, group: int) -> bool:
        """Return True where the hashes over a group are checked: kept roots by those above them."""
        if self._tile(KEPT_BITS, group) is None:
            return True  # they are the frontier's, whose row has a checksum
        for level in range(KEPT_BITS + 1, 2 * KEPT_BITS + 1):
            height = level - KEPT_BITS
            above = self._node(level, group >> height)
            if above is not None:
                first = group >> height << height
                below = [
                    self._node(KEPT_BITS, each) for each in range(first, first + (1 << height))
                ]
                return None not in below and root_of([each or b"" for each in below]) == above
        return (KEPT_BITS, group) in self._edge


def _span(level: int, index: int) -> range:
    return range(index << level, index + 1 << level)


def _placed(edge: Frontier) -> dict[tuple[int, int], bytes]:
    """Return the nodes of a frontier by level and index."""
    found, start = {}, 0
    levels = (level for level in range(edge.size.bit_length())[::-1] if edge.size >> level & 1)
    for level, node in zip(levels, edge.nodes, strict=True):
        found[level, start >> level] = node
        start += 1 << level
    return found


def _leaves_around(known: Iterable[Frame], gaps: Gaps, names: Names) -> dict[int, bytes]:
    """Return the leaf hashes of known frames in all groups that have a gap, by their positions."""
    found: dict[int, bytes] = {}
    wide = Gaps()
    for start, stop in gaps.stretches:
        edge = wide.stretches[-1][1] if wide.stretches else 0
        wide.add(max(start >> KEPT_BITS << KEPT_BITS, edge), -(-stop >> KEPT_BITS) << KEPT_BITS)
    around = deque(wide.stretches)
    for frame in known:
        while around and around[0][1] <= frame.position:
            around.popleft()
        if not around:
            break
        if frame.last_position >= around[0][0]:
            hashes = enumerate(_hashes(frame, names), frame.position)
            found |= {p: leaf for p, leaf in hashes if leaf is not None and _inside(wide, p)}
    return found


def _inside(gaps: Gaps, position: int) -> bool:
    return gaps.hold(position, position + 1)


def _hashes(frame: Frame, names: Names) -> list[bytes | None]:
    """Return the leaf hash of each event of a frame, None where it is damaged or a name is lost."""
    with suppress(Corruption):
        if names(frame):
            common = frame_common(frame)
            return [_hash(frame, index, common) for index in range(frame.count)]
    return [None] * frame.count


def _hash(frame: Frame, index: int, common: bytes) -> bytes | None:
    with suppress(Corruption):
        return leaf_hash(frame_entry(frame, index, common, frame.digests(index)))
    return None


class Proof:
    """Holds loose frames to kept hashes.

    After run() `proven` are those that hash to one together with known ones.
    """

    def __init__(
        self, loose: list[Frame], leaves: dict[int, bytes], kept: Kept, names: Names
    ) -> None:
        self._leaves, self._kept = leaves, kept
        self._hashes = _different(loose, kept, names)
        self._groups: dict[int, list[Frame]] = {}
        """Those still possible that have an event in a group, the best copy of each first."""
        for frame in sorted(self._hashes, key=worth, reverse=True):
            for group in _groups_of(frame):
                self._groups.setdefault(group, []).append(frame)
        self._steps = 0
        self.proven: set[Frame] = set()

    def run(self) -> None:
        """Prove what can be proven; each frame leaves fewer to choose from in its next group."""
        for group in sorted(self._groups):
            for span, node in self._kept.nodes(group):
                match = next((each for each in self._choices(span) if each[1] == node), None)
                for frame in match[0] if match else ():
                    if frame not in self.proven:
                        self._prove(frame)

    def _prove(self, frame: Frame) -> None:
        """Believe a frame, and rule out what stands in its way."""
        self.proven.add(frame)
        around = {each for group in _groups_of(frame) for each in self._groups[group]}
        for each in around - {frame}:
            if _overlap(each, frame):
                self._rule_out(each)

    def _rule_out(self, frame: Frame) -> None:
        for group in _groups_of(frame):
            self._groups[group].remove(frame)

    def open(self) -> list[Frame]:
        """Return what is neither proven nor ruled out.

        Where a hash that is sound is over frames that could all be there, and no choice of them
        has it, one of them at least was never committed, and nothing tells which.
        """
        refuted = set[Frame]()
        for group in sorted(self._groups):
            for span, node in self._kept.nodes(group):
                choices = list(self._choices(span))
                done = self._steps < STEPS_MAX and self._kept.is_sound(group)
                if done and all(found != node for _, found in choices):
                    refuted |= {frame for frames, _ in choices for frame in frames}
        left = {frame for frames in self._groups.values() for frame in frames}
        return list(left - refuted - self.proven)

    def _choices(self, span: range) -> Iterator[tuple[list[Frame], bytes]]:
        """Iterate over the choices of frames that fill a subtree, each with the hash it gives."""
        here = self._groups.get(span.start >> KEPT_BITS, [])
        covered = {
            p for p in span if any(each.position <= p <= each.last_position for each in here)
        }
        self._steps = 0
        if here and all(p in covered or p in self._leaves for p in span):
            for frames, leaves in self._filled(span, span.start, 0):
                yield frames, root_of(leaves)

    def _filled(self, span: range, at: int, time: int) -> Iterator[tuple[list[Frame], list[bytes]]]:
        """Iterate over the frames from a position on, none older than the one before it."""
        if at not in span:
            yield [], []
        elif at in self._leaves:
            for frames, leaves in self._filled(span, at + 1, time):
                yield frames, [self._leaves[at], *leaves]
        else:
            for frame in self._from(span, at, time):
                stop = min(frame.last_position + 1, span.stop)
                hashes = self._hashes[frame][at - frame.position : stop - frame.position]
                mine = [each for each in hashes if each is not None]
                if len(mine) == len(hashes):
                    for frames, leaves in self._filled(span, stop, frame.recorded_at):
                        yield [frame, *frames], [*mine, *leaves]

    def _from(self, span: range, at: int, time: int) -> Iterator[Frame]:
        """Iterate over the frames that go on at a position; any may have begun before a subtree."""
        for frame in self._groups.get(at >> KEPT_BITS, []):
            begins = frame.position == at or (at == span.start and frame.position < at)
            if begins and at <= frame.last_position and frame.recorded_at >= time:
                self._steps += 1
                if self._steps >= STEPS_MAX:
                    return
                yield frame


def _different(loose: Iterable[Frame], kept: Kept, names: Names) -> dict[Frame, list[bytes | None]]:
    """Return the leaf hashes of frames; of copies that hash alike only the best counts."""
    best: dict[tuple[int, tuple[bytes | None, ...]], Frame] = {}
    found: dict[Frame, list[bytes | None]] = {}
    for frame in loose:
        is_held = any(map(kept.nodes, _groups_of(frame)))
        hashes = _hashes(frame, names) if is_held else list[bytes | None]([None]) * frame.count
        if None not in hashes:
            known = best.setdefault((frame.position, tuple(hashes)), frame)
            if known is not frame and worth(frame) <= worth(known):
                continue
            found.pop(known, None)
            best[frame.position, tuple(hashes)] = frame
        found[frame] = hashes
    return found


def _groups_of(frame: Frame) -> range:
    return range(frame.position >> KEPT_BITS, (frame.last_position >> KEPT_BITS) + 1)


def _overlap(one: Frame, other: Frame) -> bool:
    return one.position <= other.last_position and other.position <= one.last_position
