"""The folder's bound, as a put meets it: what is refused, and how often the folder is looked at for it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import HookedDisk

from eventpost.queues.journal import JournalQueue
from eventpost.queues.journal.room import NoRoom, Room
from eventpost.sender.primitives import RLock
from eventpost.testing.clock import ManualClock

STORED = 5000
"""What lies in the folder, in bytes."""


def in_another_thread(work: Callable[[], Any]) -> Any:
    """Do it on a thread of its own; what it returned.  Fails if it does not end."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(work()), daemon=True)
    thread.start()
    thread.join(10)
    assert out, "it has not ended, or has failed"
    return out[0]


class Putting:
    """A room of 10,000 bytes, and who asks; ``makes``: whether room can be made, which takes an eighth of a second."""

    def __init__(self, folder: Path, *, makes: bool = False) -> None:
        self.disk, self.clock, self.lock = HookedDisk(), ManualClock(), RLock()
        queue = JournalQueue(folder, disk=self.disk, clock=self.clock)
        self.claims, self.folder = queue._claims, queue._claims.folder
        self.makes = makes
        self.made: list[int] = []
        self.given_back = 0
        self.looks = 0
        self.room = Room(
            self.folder, self.clock, bytes_max=10_000, lock=self.lock, claims=self.claims, make=self.make
        )  # fmt: skip
        self.store("0", STORED)
        self.disk.hooks["names"] = self.look

    def store(self, name: str, size: int) -> None:
        """Let a file have so many bytes."""
        Path(self.folder.segments, name).write_bytes(bytes(size))

    def look(self, _: str) -> None:
        """Note that the folder is looked at."""
        self.looks += 1

    def make(self, size: int) -> bool:
        """Make room, or find out that none can be made."""
        self.made.append(size)
        self.clock.advance(0.125)
        return self.makes

    def give_back(self) -> None:
        """End what holds some that it need not."""
        self.given_back += 1

    def finds(self, size: int, *, may_make: bool = True) -> NoRoom | None:
        """Look for room; the refusal."""
        try:
            self.room.find(size, give_back=self.give_back, may_make=may_make)
        except NoRoom as full:
            return full
        return None

    def is_refused_for_a_while(self, size: int = 6000) -> bool:
        """Tell whether a put is refused without a look at the folder."""
        before = self.looks
        refusal = self.finds(size)
        if refusal is None or self.looks != before:
            return False
        assert (refusal.size, refusal.looked_at) == (size, None)
        return True


@pytest.fixture
def putting(tmp_path: Path) -> Iterator[Putting]:
    """Give one that can't make room."""
    return Putting(tmp_path)


def test_what_fits_to_the_last_byte_is_taken(putting: Putting) -> None:
    """One more is not, once nothing more can be given back."""
    assert putting.finds(5000) is None
    assert putting.given_back == 0
    refusal = putting.finds(5001)
    assert refusal is not None
    assert (putting.given_back, refusal.size, refusal.looked_at) == (1, 5001, putting.clock.monotonic())
    assert str(refusal) == f"the journal in {putting.folder.path} holds its bytes_max=10000"


def test_what_open_segments_give_back_is_room(putting: Putting) -> None:
    """To the last byte, too."""
    putting.give_back = lambda: putting.store("0", 4000)  # type: ignore[method-assign]
    assert putting.finds(6000) is None
    putting.store("0", STORED)
    assert putting.finds(6001) is not None


def test_a_put_for_which_nobody_is_to_make_room_makes_none(putting: Putting) -> None:
    """It is refused as it is."""
    refusal = putting.finds(6000, may_make=False)
    assert refusal is not None
    assert refusal.looked_at is None
    assert not putting.room.is_made(refusal)
    assert putting.made == []


def test_room_that_could_be_made_is_looked_for_again(tmp_path: Path) -> None:
    """As much as was wanted, and nothing is remembered."""
    putting = Putting(tmp_path, makes=True)
    refusal = putting.finds(6000)
    assert refusal is not None
    assert putting.room.is_made(refusal)
    assert putting.made == [6000]
    assert not putting.is_refused_for_a_while()


def test_where_none_could_be_made_nobody_looks_for_twenty_times_as_long(putting: Putting) -> None:
    """For as much or more; for less it may suffice; what is folded here, or about to be, ends it at once."""
    assert not putting.is_refused_for_a_while()  # nobody knows yet

    def fill() -> None:
        refusal = putting.finds(6000)
        assert refusal is not None
        assert putting.room.is_made(refusal) is False

    fill()
    assert putting.is_refused_for_a_while()
    assert putting.is_refused_for_a_while(7000)
    assert not putting.is_refused_for_a_while(5999)
    assert putting.finds(5000) is None
    putting.clock.advance(2.25)
    assert putting.is_refused_for_a_while()
    putting.clock.advance(0.25)
    assert not putting.is_refused_for_a_while()
    for event in ("a fold", "something to fold"):
        fill()
        assert putting.is_refused_for_a_while()
        if event == "a fold":
            putting.claims.folds += 1
        else:
            putting.claims.done.append(None)  # type: ignore[arg-type]  # whatever it is
        assert not putting.is_refused_for_a_while()


@pytest.mark.parametrize("mine", [(), ("put",), ("claims",), ("put", "claims")])
@pytest.mark.parametrize("others", [False, True])
def test_who_interrupts_a_put_waits_for_no_lock(tmp_path: Path, mine: tuple[str, ...], *, others: bool) -> None:
    """Room is made under the claims' lock; over a put of this thread only if that is free, and it is let go."""
    putting = Putting(tmp_path, makes=True)
    refusal = putting.finds(6000)
    assert refusal is not None
    locks: dict[str, Any] = {"put": putting.lock, "claims": putting.claims.lock}
    if others and "claims" in mine:
        return  # this thread has it

    def try_it() -> bool:
        for name in mine:
            locks[name].acquire()
        try:
            return putting.room.is_made(refusal)
        finally:
            for name in mine:
                locks[name].release()

    if others:
        putting.claims.lock.acquire()
        try:
            made = in_another_thread(try_it)
        finally:
            putting.claims.lock.release()
    else:
        made = try_it()
    assert made is not (others and mine == ("put",))
    assert putting.made == ([6000] if made else [])
    assert in_another_thread(lambda: putting.claims.lock.acquire(False))
