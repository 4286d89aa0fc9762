"""disk: bytes on disk a message, all in: log, indexes, tree, dictionaries, lock files."""

from functools import partial

from .data import Conversation
from .harness import Bench, Result, at_most
from .peers import Contender
from .race import Lane

REPEAT = 20
BYTES_A_MESSAGE = 220


def run(bench: Bench) -> Result:
    """Count allocated blocks of closed files; nothing is timed and nothing is left out."""
    some = 8 if bench.smoke else len(bench.data.conversations)
    conversations = bench.data.take(some * bench.size(REPEAT, 1))
    events = sum(map(len, conversations))
    shapes = {shape: bench.ours(bench.stock(shape, events)) for shape in ("turns", "imports")}
    lanes = [
        Lane("ours", "ours", partial(_closed, shapes["turns"], events)),
        Lane("imported", "figure", partial(_closed, shapes["imports"], events)),
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
    ]
    result.note = (
        f"{events:,} messages; ours: one message an append; imported: a conversation an append;"
        " both with the dictionaries that they made meanwhile"
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
