"""The ways in which a process ends or forks, and what each means: the rows of docs/exits.md, and their scripts.

A row's script gets ``d`` (a dispatcher on a memory queue or a journal) and ``put(prefix, count)``, which writes the
name of each event to a file once the door has said yes.  Events linger for a minute, so nothing leaves before somebody
flushes: what arrives, arrives because the end of the process saw to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fate = Literal["delivered", "kept", "lost"]


def cell(fate: Fate, note: str = "") -> str:
    """Return what stands in the table."""
    return (f"**{fate}**" if fate == "lost" else fate) + note


@dataclass(frozen=True)
class End:
    """One row.  ``others``: what became of the events named ``child...``, where it is not what became of the rest."""

    code: str
    memory: Fate = "delivered"
    exit_code: int = 0
    child: Fate | None = None

    def fate(self, durability: str, name: str) -> Fate:
        """Return what becomes of an event with a queue of this level; a journal loses nothing."""
        fate = self.child if self.child is not None and name.startswith("child") else self.memory
        return "kept" if durability != "memory" and fate == "lost" else fate

    def cells(self) -> list[str]:
        """Return the row's two cells."""
        found = []
        for durability in ("memory", "os"):
            own, childs = self.fate(durability, ""), self.fate(durability, "child")
            found.append(cell(own) if own == childs else f"{cell(own)}; the child's {cell(childs)}")
        return found


PRELUDE = """
import atexit, itertools, multiprocessing, os, signal, sys, threading, time
from eventpost import EventDispatcher, JournalQueue, LogEvent, MemoryQueue
URL, QUEUE, SAID, DURABILITY = sys.argv[1:5]
queue = MemoryQueue(events_max=1_000_000) if DURABILITY == "memory" else JournalQueue(QUEUE, DURABILITY)
d = EventDispatcher(queue, merge_log_events=True, linger_s=60)
said = os.open(SAID, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

numbers = itertools.count()

def put(prefix, count=10):
    for _ in range(count):
        name = f"{prefix}-{os.getpid()}-{next(numbers)}"
        body = {"visitors": [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": name}]}]}]}
        if not d.dispatch_event(LogEvent(URL, body)):
            return False
        os.write(said, name.encode() + b"\\n")
    return True

def wait(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

SPAWNED = """
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    put("parent")
    children = [context.Process(target=put, args=("child",)) for _ in range(2)]
    [child.start() for child in children]
    [child.join(20) for child in children]
    assert [child.exitcode for child in children] == [0, 0]
"""

POOLED = """
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    put("parent")
    pool = context.Pool(2)
    assert all(pool.map(put, ["child"] * 6, chunksize=1))
    pool.{end}()
    pool.join()
"""

ENDS: dict[str, End] = {
    "end of the script": End("put('a')"),
    "`sys.exit(3)`": End("put('a'); sys.exit(3)", exit_code=3),
    "an unhandled exception": End("put('a'); raise RuntimeError('on purpose')", exit_code=1),
    "SIGINT (`KeyboardInterrupt`)": End(
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell starts what is in the background without
        "put('a'); os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
        exit_code=-2,
    ),
    "SIGTERM, no handler": End(
        "put('a'); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", memory="lost", exit_code=-15
    ),
    "SIGTERM, a handler that raises `SystemExit`": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "put('a'); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    ),
    "SIGKILL": End("put('a'); os.kill(os.getpid(), signal.SIGKILL)", memory="lost", exit_code=-9),
    "`os.abort()`, a crash of the interpreter": End("put('a'); os.abort()", memory="lost", exit_code=-6),
    "`os._exit()`": End("put('a'); os._exit(0)", memory="lost"),
    "`os.execv()`": End("put('a'); os.execv(sys.executable, [sys.executable, '-c', ''])", memory="lost"),
    "fork before the first use": End("""
pid = os.fork()
put("parent" if pid else "child")
pid and wait(pid)
"""),
    "fork after the first use": End("""
put("parent")
pid = os.fork()
put("again" if pid else "child")
pid and wait(pid)
"""),
    "fork, the child ends with `os._exit()`": End(
        """
put("parent")
pid = os.fork()
if not pid:
    put("child")
    os._exit(0)
wait(pid)
put("again")
""",
        child="lost",
    ),
    "fork, the child calls `close()`, then `os._exit()`": End("""
put("parent")
pid = os.fork()
if not pid:
    put("child")
    d.close()
    os._exit(0)
wait(pid)
"""),
    "fork in a thread, the child's thread ends": End("""
def work():
    pid = os.fork()
    if not pid:
        put("child")
        inner = os.fork()
        put("child" if inner else "grandchild")
        if inner:
            wait(inner)
        return
    wait(pid)
put("parent")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""),
    "fork in a thread, the child calls `close()`": End("""
def work():
    pid = os.fork()
    if not pid:
        put("child")
        d.close()
        os._exit(0)
    wait(pid)
put("parent")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""),
    "double fork (a daemon)": End("""
put("parent")
pid = os.fork()
if not pid:
    os.setsid()
    if os.fork():
        os._exit(0)
    put("grandchild")
    sys.exit(0)
wait(pid)
put("again")
"""),
    "`multiprocessing.Process`, fork": End(SPAWNED.format(method="fork")),
    "`multiprocessing.Process`, forkserver": End(SPAWNED.format(method="forkserver")),
    "`multiprocessing.Process`, spawn": End(SPAWNED.format(method="spawn")),
    "`multiprocessing.Process`, `terminate()`": End(
        """
context = multiprocessing.get_context("fork")
ready = context.Event()
def work():
    put("child")
    ready.set()
    time.sleep(20)
child = context.Process(target=work)
child.start()
assert ready.wait(20)
child.terminate()
child.join(20)
""",
        child="lost",
    ),
    "`multiprocessing.Pool`, `close()` and `join()`, fork": End(POOLED.format(method="fork", end="close")),
    "`multiprocessing.Pool`, `close()` and `join()`, spawn": End(POOLED.format(method="spawn", end="close")),
    "`multiprocessing.Pool`, `terminate()` (what leaving its `with` does)": End(
        POOLED.format(method="fork", end="terminate"), child="lost"
    ),
    "`ProcessPoolExecutor`": End("""
from concurrent.futures import ProcessPoolExecutor
put("parent")
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    assert all(pool.map(put, ["child"] * 6))
"""),
    "threads in the middle of `dispatch_event`": End("""
def work(at):
    while put(f"thread{at}", 1_000):
        pass
for at in range(3):
    threading.Thread(target=work, args=(at,), daemon=True).start()
time.sleep(0.2)
"""),
    "`atexit`: a handler of the application puts": End("atexit.register(put, 'late')"),
    "`threading._shutdown`: a thread that is not a daemon puts last": End("""
threading.Timer(0.2, put, ["late"]).start()
"""),
}
