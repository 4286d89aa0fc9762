"""disk: bytes on disk a message, all in: log, indexes, tree, dictionaries, lock files."""

from functools import partial

from .data import Conversation
from .harness import Bench, Result, at_most
from .ours import Ours
from .peers import Contender
from .race import Lane
from .stock import one_by_one

REPEAT = 20
BYTES_A_MESSAGE = 220
SAVED = "trained dictionary"


def run(bench: Bench) -> Result:
    """Count allocated blocks of closed files; nothing is timed and nothing is left out."""
    some = 8 if bench.smoke else len(bench.data.conversations)
    conversations = bench.data.take(some * bench.size(REPEAT, 1))
    events = sum(map(len, conversations))
    shapes = {shape: bench.ours(bench.stock(shape, events)) for shape in ("turns", "imports")}
    lanes = [
        Lane("ours", "ours", partial(_closed, shapes["turns"], events)),
        Lane("imported", "figure", partial(_closed, shapes["imports"], events)),
        Lane(SAVED, "figure", partial(_trained, bench.ours(), conversations)),
    ]
    for each in bench.others("append"):
        if each.name == "eventsourcing recorder":  # the same file as behind the transcoder
            continue
        taken = bench.conversations(each, conversations)
        if bench.guarded(each, partial(_fill, each, taken)):
            lanes.append(Lane(each.name, each.kind, partial(_closed, each, sum(map(len, taken)))))
    result = bench.compare(
        lanes,
        what=f"bytes on disk a message of {bench.data.message_bytes:.0f} B of JSON",
        unit="bytes",
        better="lower",
        once=True,
    )
    result.reach = [
        at_most(f"<= {BYTES_A_MESSAGE} B, one message an append", result.ours, BYTES_A_MESSAGE),
        at_most(f"<= {BYTES_A_MESSAGE} B, imported", result.figures["imported"], BYTES_A_MESSAGE),
        at_most(
            f"<= {BYTES_A_MESSAGE} B, one message an append, {SAVED}",
            result.figures[SAVED],
            BYTES_A_MESSAGE,
        ),
    ]
    result.note = (
        f"{events:,} messages; ours: one message an append, dictionary as shipped; imported: a"
        f" conversation an append; {SAVED}: train_dictionary() after half of the conversations,"
        " what the other half adds"
    )
    return result


def _closed(contender: Contender, messages: int) -> float:
    contender.close()
    return contender.disk_bytes() / messages


def _fill(contender: Contender, conversations: list[Conversation]) -> None:
    """Store all of it as one session, whose rows are what many sessions' rows are.

    Not so where each message is a step that keeps all before it: there a session a conversation.
    """
    if not contender.per_message:
        contender.fill("all", [message for each in conversations for message in each])
        return
    for index, conversation in enumerate(conversations):
        name = f"c{index}"
        batches = [contender.prepared(name, [each]) for each in conversation]
        begin = partial(contender.begin, name)
        contender.clock([begin, *(partial(contender.append, name, each) for each in batches)])


def _trained(ours: Ours, conversations: list[Conversation]) -> float:
    """Return what a message adds once a dictionary was trained on other conversations."""
    half = max(len(conversations) // 2, 1)
    one_by_one(ours.store, conversations[:half], 0)
    ours.store.train_dictionary()
    ours.shut()
    before = ours.disk_bytes()
    ours.reopen()
    one_by_one(ours.store, conversations[half:], half)
    ours.shut()
    return (ours.disk_bytes() - before) / max(sum(map(len, conversations[half:])), 1)
