"""The journal: an embedded durable queue, a folder of append-only files.

Why one of our own: what this project exists for is a put that survives kill -9, costs the application microseconds, and
never waits for another process.  One put of 1 KB costs 2-4 us here; SQLite in WAL mode took 24 us alone, and let four
processes wait up to 134 ms for each other, in the middle of somebody's web request.

Reading order: ``format`` (the bytes; pure) -> ``segment``, ``cursor`` (one file, two sides) -> ``folder`` (who lives
here) -> ``totals`` (the sum that outlives them) -> ``claims`` (claim, ack, release) -> ``dead`` (dead letters) ->
``presence`` (becoming a writer) -> ``store`` (put) -> ``room`` (the bound) -> ``sync`` (group commit) -> ``voided``
(what is passed over) -> ``interruption`` (signal handlers) -> ``count`` (the sum) -> ``visitors``, ``erase``,
``erasing`` (a person's events, erased on order) -> ``orphans`` (adoption) -> ``bounds``, ``expiry`` (of what is parked)
-> ``keeper`` (what is done now and then) -> ``queue`` (the face) -> ``inspect``, ``repair``, ``purge`` (what the
command line shows and does).  ``disk`` is the one object through which all of them reach files; hand in another one to
break things.

An event's way: a put appends a frame to this process's own segment for that endpoint, by a store into a mapping of
blocks that were allocated before (no system call, so the GIL stays here; the one that a put makes is the door's
``getpid``, 0.1 us, which keeps it, too).  The sender's thread reads the frames, in order, and notes what became of each
in one byte at the head of the same file.  A segment that is fully settled is added to ``totals.json`` and removed.  Of
events that nobody claimed nothing is kept in memory: a million cost 3 MB, and 13 MB where the headers of all differ.

Locks (all ``flock``, which the kernel drops with the process, so there are no timers and no heartbeats):

=====================  ===============================  =======================================================
file                   held by                          means
=====================  ===============================  =======================================================
writers/<writer>.lock  a process, while it lives        its segments are its own (unless their header says that
                                                        it does not send)
segments/<...>.seg     who sends another's segment,     nobody else does
                       or mends or erases in it
dead/<...>.seg         who settles letters in it        for the moment of the change
scanner.lock           one process of the folder        it looks for what dead writers left, and expires dead letters
totals.lock            who folds a segment              for the moment of the change; never waited for
purge.lock             who writes ``purge.json``        one purge at a time; what it left undone is nobody's while it is
                                                        held, else the scanner's
=====================  ===============================  =======================================================

After taking a lock the name is looked at again: the file may have been unlinked in between.  What is unlinked because
its holder is dead, is unlinked under its lock.  A forked child closes what it inherited, without unlocking, and starts
as a writer of its own.  Observers are called once no lock is held.  The locks between threads, and what keeps a signal
handler from waiting for them in a circle, are in ``interruption``.

What a crash can leave, and what is made of it: half a frame at the end (cut: its put never returned); an event that was
delivered but not noted (sent again, with the same uuid); a dead letter that was written but not noted (it is dead: who
adopts the segment of its event finds the letter by its origin, "segment:ordinal", and notes it then); a segment that is
in the totals but not unlinked (unlinked by the next fold, counted once); a record that was being erased (its erasing is
done again before it is read). A damaged place costs the events that lie in it: its bytes are kept in ``bad/``, the
count says ``dropped: damaged``, and reading goes on with the next whole frame.
"""

from .disk import Disk
from .queue import JournalQueue

__all__ = ["Disk", "JournalQueue"]
