"""Old data: a store of every released format is opened on every run and gives what it gave.

tests/golden/make.py made them and wrote down, then, all that they must give for ever.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.audit.verify import verify_directory
from eventstore.errors import KeyReused
from eventstore.log.format import FORMAT, TYPE_CODES

GOLDEN = Path(__file__).parent / "golden"
FORMATS = sorted(int(each.stem.removeprefix("format-")) for each in GOLDEN.glob("format-*.json"))

sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402 - the script beside the stores, which is no package

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little" or struct.calcsize("P") != 8,
    reason="the golden files are LMDB's for 64-bit little-endian machines",
)

# Facts of format 1, written down here a second time so that no new json file can hide a change.
SIZE = 302
ROOT = "ea386e9ba013d4cdb0fa610d84b8b4122a1d6bb34232c2b0ac21d7af3f7b431a"


@pytest.fixture(params=FORMATS, ids=lambda number: f"format-{number}")
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict]:
    """Give a copy of a golden store and what it must give."""
    name = f"format-{request.param}"
    place = Path(shutil.copytree(GOLDEN / name, tmp_path / "history"))
    return place, json.loads((GOLDEN / f"{name}.json").read_text())


def test_there_is_a_store_of_every_format():
    """No format is released without a store that is kept for ever."""
    assert list(range(1, FORMAT + 1)) == FORMATS


def test_the_first_golden_store_is_the_one_that_was_made():
    """Size and root of format 1's store are those of the day it was made."""
    told = json.loads((GOLDEN / "format-1.json").read_text())
    assert (told["size"], told["root"]) == (SIZE, ROOT)


def test_it_gives_the_same_facts_states_and_head(copy: tuple[Path, dict]):
    """Every event with its envelope, every state, every receipt and the tree head are equal."""
    place, told = copy
    with EventStore.open(place, read_only=True) as store:
        given = json.loads(json.dumps(make.all_that_it_gives(store)))
    assert given.keys() == told.keys()
    for part, value in told.items():
        assert given[part] == value, part


def test_it_is_sound(copy: tuple[Path, dict]):
    """The deep verification finds nothing, and hashes everything to the old root."""
    place, told = copy
    report = verify_directory(place, deep=True)
    assert report.sound, report.findings
    assert (report.size, report.root) == (told["size"], told["root"])


def test_it_goes_on(copy: tuple[Path, dict]):
    """Old streams take new events, old keys answer, and the store stays sound."""
    place, told = copy
    with EventStore.open(place, clock=lambda: told["recorded_at"]) as store:
        again = store.append("support-42", {"role": "user", "content": "What is Python?"}, key="q1")
        assert again.duplicate and again.position == 1
        with pytest.raises(KeyReused):
            store.append("support-42", {"role": "user", "content": "Other."}, key="q1")
        receipt = store.append("experiment-2", {"role": "user", "content": "Years later."})
        assert receipt.position == told["size"]
        store.merge("experiment-2", into="support-42", key="new")
    assert verify_directory(place, deep=True).sound


def test_it_holds_all_kinds_of_facts(copy: tuple[Path, dict]):
    """A golden store has every type of event that a command could make in its time."""
    later = {"EraseRequested", "KeyCreated", "KeyShredded"}  # of encrypted stores only
    with EventStore.open(copy[0], read_only=True) as store:
        kinds = {each.type for each in store.all()}
    assert kinds == {kind.__name__ for kind in TYPE_CODES} - later
