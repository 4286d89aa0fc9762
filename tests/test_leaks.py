"""Leaks: after an erasure no byte of the store, its copies or its evidence tells what was said.

Each place that audit.md lists is searched whole: the log with its free pages, snapshots and views,
backups of before and after, tiles, bundles, pages for people, what goes to logs and into errors.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
from traces import bytes_of, forms, found_in

from eventstore import EventStore, EventStoreError, Keyring, KeyShredded
from eventstore.audit.dossier import dossier_lines, dossier_of, page_parts
from eventstore.audit.evidence import prove_event, prove_session
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of
from eventstore.audit.signer import SigningKey
from eventstore.audit.tiles import export_tiles
from eventstore.care.backup import backup
from eventstore.care.compacting import compact
from eventstore.interchange import export_events
from eventstore.sessions import SessionManager
from projections import SessionState, Views

SAID, NAMED = "Zebrafïsch", "Pänther"
"""What was said in the session that goes, and what somebody or something is called there."""

OTHERS = "goldfish"


def tell(store: EventStore) -> None:
    """Say the words in every field of every fact of `doomed`, and other ones elsewhere."""
    who = {"actor": f"user:{NAMED}", "correlation_id": f"c{NAMED}", "causation_id": f"w{NAMED}"}
    doomed = f"doomed {NAMED}"
    values = {SAID: SAID, "nested": [{"deep": SAID}]}
    store.create(doomed, user=SAID, metadata=values, context=values, template=SAID, **who)
    line = {"role": SAID, "content": SAID, "name": SAID, "metadata": values}
    for number in range(70):  # far enough for a snapshot
        store.append(doomed, {**line, "content": f"{SAID} {number}"}, key=f"k{NAMED}{number}")
    store.append(doomed, [{**line, "id": f"id {SAID}"}] * 3, **who)
    store.update_metadata(doomed, values)
    store.set_context(doomed, SAID, SAID)
    store.record_tool_call(doomed, SAID, {SAID: SAID}, SAID, call_id=SAID, error=SAID)
    store.record_error(doomed, SAID, SAID, SAID)
    store.record(doomed, SAID, SAID)
    store.prune(doomed, keep_last=60, reason=SAID)
    store.summarize(doomed, f"They said {SAID}.", upto=20)
    store.branch(doomed, f"branch {NAMED}", name="a try")
    store.create("taker")
    store.append("taker", {"content": OTHERS})
    store.merge(doomed, into="taker", strategy="append")
    store.create("bystander", metadata={"topic": OTHERS})
    for number in range(70):
        store.append("bystander", {"role": "user", "content": f"{OTHERS} {number}"})
    store.headers.at(doomed, 70)
    store.close(doomed, reason=SAID)
    Views(store).sessions()
    list(SessionState.of(store, doomed).messages)


class House:
    """An encrypted store with a history, and everything that was made of it before an erasure."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = EventStore.open(place / "history", keyring=Keyring.file(place / "ring/key"))
        tell(self.store)
        self.doomed = next(each for each in self.store.sessions() if each.startswith("doomed"))
        self.key = SigningKey.generate(origin_of("example.com/support", self.store.origin))
        self.heads = Heads(self.store, self.key, place / "audit" / "last.note")
        self.note = self.heads.sign()
        backup(self.store, place / "before")
        self.hand_out(place / "evidence before")

    def hand_out(self, place: Path) -> None:
        """Write tiles, proofs and the bundles of all sessions."""
        note, keys = self.heads.sign(), [self.key.verifier]
        place.mkdir()
        export_tiles(self.store, note, keys, place / "tiles")
        for number, session in enumerate(self.store.sessions()):
            with (place / f"{number}.jsonl").open("wb") as file:
                file.writelines(prove_session(self.store, session, note, keys))
        proof = prove_event(self.store, self.store.head().size - 1, note, keys)
        (place / "newest.tlog-proof").write_bytes(proof)

    def pages(self) -> bytes:
        """Return the reports for people and for machines about every session."""
        keys = [self.key.verifier]
        made: list[bytes] = []
        for session in self.store.sessions():
            report = dossier_of(self.store, session, self.heads.sign(), keys)
            made += [*page_parts(self.store, report, keys), *dossier_lines(self.store, report)]
        return b"".join(made)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Give the store after the erasure, with copies and evidence of before and of after."""
    made = House(tmp_path_factory.mktemp("house"))
    made.store.erase(made.doomed, reason="asked for", cascade=True, actor="user:desk")
    Views(made.store).sessions()
    made.store.headers.at("bystander", 70)
    backup(made.store, made.place / "after")
    made.store.append("bystander", {"content": OTHERS})
    backup(made.store, made.place / "after", incremental=True)
    made.hand_out(made.place / "evidence after")
    yield made
    made.store.close()


# -- bytes -----------------------------------------------------------------------------------


def test_the_search_finds_what_is_there(tmp_path):
    """In a plain store the same search finds both words: in log, snapshots, views and backup."""
    with EventStore.open(tmp_path / "history", compression="none") as store:
        tell(store)
        backup(store, tmp_path / "copy")
    for place in ("history/log", "history/snapshots", "history/views", "copy"):
        found = found_in(bytes_of(tmp_path / place), SAID, NAMED)
        assert {each.split(":")[0] for each in found} == {SAID, NAMED}, place
    for word in (SAID, NAMED):
        for name, raw in forms(word).items():
            assert f"{word}: {name}" in found_in(b"x" + raw + b"y", word)


@pytest.mark.parametrize(
    "place", ["history", "before", "after", "evidence before", "evidence after", "audit", "ring"]
)
def test_no_byte_tells(house, place):
    """Neither what was said nor a name is in any byte, in any form: store, copies, evidence."""
    assert found_in(bytes_of(house.place / place), SAID, NAMED, OTHERS) == []


def test_free_pages_are_part_of_the_search(house):
    """The log has free pages, older ones among them: ciphertext is all they ever held."""
    env = house.store.log.env
    free = bytes_of(house.place / "history" / "log")
    assert len(free) > env.used_bytes()
    assert found_in(free, SAID, NAMED) == []


def test_caches_of_before_are_gone(house):
    """Snapshots begin anew in a directory of their own; views of an encrypted store are none."""
    names = [each.name for each in (house.place / "history").iterdir() if each.is_dir()]
    caches = [each for each in names if each.startswith(("snapshots", "views"))]
    assert caches == [f"snapshots-{house.store.log.erasures()}"]


def test_no_dictionary_was_trained(house):
    """The only dictionary is the one that ships, so that none holds what anybody said."""
    with house.store.log.env.begin() as txn:
        assert txn.stat(house.store.log.env.table(b"dictionaries"))["entries"] == 1


# -- readers with the keyring ----------------------------------------------------------------


def told_by(store: EventStore) -> Iterable[object]:
    """Iterate over all that can be read of a store: facts, states, views, searches, exports."""
    for recorded in store.all():
        yield recorded.structure
        yield repr(recorded)
    views = Views(store)
    yield views.statistics()
    yield views.sessions(status=("active", "closed", "erased")).rows
    for session in store.sessions():
        yield str(views.tree(session))
        for version in range(store.version(session) + 1):
            try:
                state = SessionState.of(store, session, at_version=version)
            except KeyShredded as error:
                yield str(error)
                break
            yield from (state.header, [each.fields for each in state.messages])
    with SessionManager(store) as manager:
        yield manager.list(limit=None)
        yield manager.search(SAID)
        yield manager.build_context("bystander")
    yield list(export_events(store, ["bystander"]))


def test_no_reader_tells(house):
    """With the keyring too, nothing that can be read says a word of it; names alone stay."""
    for told in told_by(house.store):
        assert found_in(str(told).encode(), SAID) == []
        assert found_in(repr(told).encode(), SAID) == []
    assert found_in(house.pages(), SAID) == []
    assert any(NAMED in each for each in house.store.sessions())


def test_others_are_still_read(house):
    """What was said elsewhere is found by the same readers."""
    whole = "".join(str(told) for told in told_by(house.store))
    assert OTHERS in whole
    assert found_in(house.pages(), OTHERS)


# -- logs and errors -------------------------------------------------------------------------

WRONG = {
    "a version": lambda store, said: store.append("s", said, expected=7),
    "a key": lambda store, said: store.append("s", said, key="k"),
    "no session": lambda store, said: store.append("nowhere", said),
    "no json": lambda store, said: store.append("s", {**said, "x": {1: SAID}}),
    "too deep": lambda store, said: store.append("s", {**said, "x": nested(100)}),
    "too large": lambda store, said: store.append("s", {**said, "x": SAID * 900_000}),
    "no name": lambda store, _: store.set_context("s", "", SAID),
    "no patch": lambda store, _: store.update_metadata("s", [SAID]),
    "no reason": lambda store, _: store.prune("s", keep_last=-1, reason=SAID),
    "no summary": lambda store, _: store.summarize("s", SAID, upto=99),
    "a conflict": lambda store, _: store.merge("b", into="s", on_conflict="fail"),
}


def nested(depth: int) -> object:
    """Return a list in a list, with the word inside."""
    return [nested(depth - 1)] if depth else SAID


@pytest.mark.parametrize("what", WRONG)
def test_errors_and_logs_repeat_nothing(sealed, caplog, what):
    """An error says what is wrong and where, in numbers and names, and repeats no text."""
    caplog.set_level(logging.DEBUG)
    said = {"role": "user", "content": SAID}
    sealed.create("s", metadata={"k": SAID})
    sealed.append("s", {"content": "first"}, key="k")
    sealed.branch("s", "b")
    sealed.update_metadata("s", {"k": SAID + "1"})
    sealed.update_metadata("b", {"k": SAID + "2"})
    with pytest.raises(EventStoreError) as error:
        WRONG[what](sealed, said)
    assert found_in(f"{error.value} {error.value!r}".encode(), SAID) == []
    assert caplog.records == []


# -- what a plain store keeps ----------------------------------------------------------------


def test_a_plain_store_forgets_when_it_is_compacted(tmp_path):
    """Redaction leaves the bytes in free pages, as the docs say; compaction gives those back."""
    place = tmp_path / "history"
    with EventStore.open(place, compression="none") as store:
        store.create("s")
        for number in range(200):
            store.append("s", {"content": f"line {number}, {'x' * 50}"})
        store.append("s", {"content": SAID})
        store.redact("s", 201)
    assert found_in(bytes_of(place), SAID)
    compact(place)
    assert found_in(bytes_of(place), SAID) == []
    with EventStore.open(place) as store:
        assert len(SessionState.of(store, "s").messages) == 200
