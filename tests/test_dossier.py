"""The audit page: everything a session holds, as text, in one file that carries its evidence."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eventstore import EventStore, ProofError, SessionNotFound
from eventstore.audit.dossier import dossier_lines, dossier_of, facts_in, page_parts
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of
from eventstore.audit.signer import SigningKey
from eventstore.audit.verifier import main as verifier

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "<style>*{display:none}</style>",
    "&lt;already&gt; &amp; \"quoted\" 'quoted'",
    "javascript:alert(1)",
    "<!--",
    "\u202ereversed\u2066",
]


class Page(HTMLParser):
    """What a browser would make of a page: its tags, attributes and text."""

    VOID = ("meta", "br", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture
def key(disk: EventStore) -> SigningKey:
    """Give a key for the store."""
    return SigningKey.generate(origin_of("example.com/support", disk.id))


def fill(store: EventStore) -> None:
    """Make a session of many kinds of facts, and another beside it."""
    store.create("a", metadata={"topic": "<b>bold</b>"}, user="u<1>")
    store.create("other")
    for text in HOSTILE:
        store.append("a", {"role": "user", "content": text, "extra": {text: [1, None]}})
        store.append("other", {"content": "no business of this page"})
    store.append("a", {"role": "assistant", "content": [{"type": "text", "text": "parts"}]})
    store.append("a", {"content": "early"}, occurred_at=-(1 << 62), actor="<i>actor</i>")
    store.record("a", "custom <kind>", {"n": [1, {"x": "<u>"}]}, correlation_id="c<2>")
    store.branch("a", "a's branch")
    store.prune("a", keep_last=1, reason="short")
    store.close("a")


def page_of(store: EventStore, note: bytes | None, key: SigningKey, session: str = "a") -> str:
    """Return the page of a session."""
    keys = [key.verifier]
    report = dossier_of(store, session, note, keys)
    return b"".join(page_parts(store, report, keys)).decode()


def test_every_fact_is_on_the_page_as_text(disk, key, tmp_path: Path):
    """All that was recorded can be read on it, and none of it is markup."""
    fill(disk)
    note = Heads(disk, key, tmp_path / "last.note").sign()
    page = Page(page_of(disk, note, key))
    assert page.open == []
    for text in (*HOSTILE, "<i>actor</i>", "c<2>", "custom <kind>", "parts", note.decode()):
        assert text in page.text, text
    assert "no business of this page" not in page.text
    rows = 13
    assert disk.version("a") == rows - 1
    assert (page.tags.count("tr"), page.text.count("leaf ")) == (rows + 1, rows)
    for recorded in disk.events("a"):
        assert f"position {recorded.position}" in page.text


def test_the_page_loads_nothing_and_runs_nothing(disk, key, tmp_path: Path):
    """No script, image, frame or address: what a policy forbids is not there either."""
    fill(disk)
    note = Heads(disk, key, tmp_path / "last.note").sign()
    page = Page(page_of(disk, note, key))
    allowed = "html head meta title style body main h1 h2 p dl dt dd table thead tbody tr th td"
    assert set(page.tags) <= {*allowed.split(), "br", "span", "div", "pre", "code", "em", "a"}
    addresses = [value for name, value in page.attributes if name in ("href", "src")]
    assert len(addresses) == 1
    assert addresses[0].startswith("data:application/jsonl;base64,")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_page_carries_evidence_that_checks(disk, key, tmp_path: Path):
    """The link on the page holds a session bundle that the standalone verifier accepts."""
    fill(disk)
    note = Heads(disk, key, tmp_path / "last.note").sign()
    (link,) = re.findall(r'base64,([^"]*)"', page_of(disk, note, key))
    (tmp_path / "session.jsonl").write_bytes(b64decode(link, validate=True))
    assert verifier(["--key", str(key.verifier), str(tmp_path / "session.jsonl")]) == 0


def test_evidence_of_any_length_is_one_piece_of_base64(disk, key, tmp_path: Path):
    """A bundle that is encoded in several pieces decodes to the same bytes."""
    disk.create("a")
    disk.append("a", [{"content": "x"}] * 400)
    note = Heads(disk, key, tmp_path / "last.note").sign()
    (link,) = re.findall(r'base64,([^"]*)"', page_of(disk, note, key))
    bundle = b64decode(link, validate=True)
    assert (bundle.count(b"\n"), len(bundle) > 3 << 16) == (402, True)


def test_without_a_head_the_page_says_that_it_proves_nothing(disk, key):
    """A store without keys can be reported all the same, and the reader is told."""
    fill(disk)
    page = Page(page_of(disk, None, key))
    assert "proves nothing" in page.text
    assert "Signed head" not in page.text


def test_a_report_ends_where_its_head_does(disk, key, tmp_path: Path):
    """Facts behind the signed head are not on the page that stands under it."""
    fill(disk)
    note = Heads(disk, key, tmp_path / "last.note").sign()
    disk.reopen("a")
    disk.append("a", {"content": "said later"})
    assert "said later" not in page_of(disk, note, key)
    assert dossier_of(disk, "a", note, [key.verifier]).events == 13
    disk.create("new")
    assert list(facts_in(disk, dossier_of(disk, "new", note, [key.verifier]))) == []


def test_lines_for_machines_and_the_page_hold_the_same_facts(disk, key):
    """Each line after the first is one fact, in order of versions."""
    fill(disk)
    report = dossier_of(disk, "a", None, [])
    assert len(list(dossier_lines(disk, report))) == 1 + len(list(facts_in(disk, report))) == 14
    assert [fact.version for fact in facts_in(disk, report)] == list(range(13))


def test_what_is_not_there_can_not_be_reported(disk, key, tmp_path: Path):
    """An unknown session and a head of another store raise before anything is written."""
    fill(disk)
    with pytest.raises(SessionNotFound):
        dossier_of(disk, "none", None, [])
    with EventStore.open(tmp_path / "other") as other:
        note = Heads(disk, key, tmp_path / "last.note").sign()
        other.create("a")
        with pytest.raises(ProofError):
            dossier_of(other, "a", note, [key.verifier])
