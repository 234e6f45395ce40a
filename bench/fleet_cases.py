"""One process of a fleet's measurement: ``python -m bench.fleet_cases ROLE JSON`` waits for a line, works, prints JSON.

It says ``ready`` once it is connected.  What it prints: the events it handled, when the first began and the last ended
(one clock for all processes of a machine), and the CPU seconds of all its threads in between.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.relay import EVENT

CLAIM_EVENTS, CLAIM_BYTES = 2000, 16 << 20
QUIET_S = 1.0
"""Who finds nothing for so long is done."""
HEAD, _, REST = EVENT.partition('"visitors":[')
VISITOR, TAIL = REST[:-2].encode(), REST[-2:].encode()
PAYLOADS = [VISITOR.replace(b"visitor-000001", b"visitor-%06d" % number) for number in range(1000)]
Result = dict[str, Any]


def events_of(url: str, count: int, *, shared: bool) -> list[Any]:
    """Return events as a door makes them: a visitor of 0.5 KB, or with ``shared`` false a whole body."""
    from eventpost.event import Envelope, Event

    prefix = f'{HEAD}"visitors":['.encode()
    if not shared:
        return [Event(Envelope(url), prefix + payload + TAIL) for payload in PAYLOADS[:count]]
    envelope = Envelope(url, shared=True, prefix=prefix, suffix=TAIL)
    return [Event(envelope, payload) for payload in PAYLOADS[:count]]


def make_queue(options: dict[str, Any]) -> Any:
    """Return the queue that is measured: on the server, or a journal in a folder."""
    if "folder" in options:
        from eventpost import JournalQueue

        return JournalQueue(options["folder"], adopt="always")
    from eventpost import RedisStreamsQueue

    return RedisStreamsQueue(options["server"], shards=options.get("shards", 4), bytes_max=8 << 30, timeout_s=10.0)


def until_quiet(step: Callable[[], int], quiet_s: float = QUIET_S) -> Result:
    """Call ``step``, which says how many events it handled, until nothing has come for a while."""
    count, began = 0, 0.0
    ended, cpu_began, cpu_ended = time.monotonic(), time.process_time(), 0.0
    while True:
        done = step()
        now = time.monotonic()
        if done:
            began = began or ended
            count += done
            ended, cpu_ended = now, time.process_time()
        elif now - ended > quiet_s:
            return {"events": count, "began": began, "ended": ended, "cpu_s": max(0.0, cpu_ended - cpu_began)}
        else:
            time.sleep(0.005)


def counted(count: int, each: int, step: Callable[[], None], threads: int = 1, per_s: float | None = None) -> Result:
    """Call ``step``, which handles ``each`` events, until ``count`` are; ``per_s`` at most, if it says so."""
    began, cpu = time.monotonic(), time.process_time()

    def some() -> None:
        for number in range(count // each // threads):
            if per_s is not None:
                time.sleep(max(0.0, began + number * each / per_s - time.monotonic()))
            step()

    others = [threading.Thread(target=some) for _ in range(threads - 1)]
    for one in others:
        one.start()
    some()
    for one in others:
        one.join()
    done = count // each // threads * each * threads
    return {"events": done, "began": began, "ended": time.monotonic(), "cpu_s": time.process_time() - cpu}


def put(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Put events, ``each`` at a time."""
    queue, each = make_queue(options), options["each"]
    events = events_of(options["url"], each, shared=options.get("shared", True))
    ready()
    found = counted(options["count"], each, lambda: queue.put(events), options.get("threads", 1), options.get("per_s"))
    queue.close()
    return found


def take(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Claim and acknowledge, as a sender does, but send nothing."""
    queue = make_queue(options)
    ready()
    tend_at = 0.0

    def step() -> int:
        nonlocal tend_at
        if time.monotonic() >= tend_at:
            tend_at = time.monotonic() + (queue.tend() or 1.0)
        leases = queue.claim(options["url"], CLAIM_EVENTS, CLAIM_BYTES)
        if leases:
            queue.ack(leases)
        return len(leases)

    found = until_quiet(step)
    queue.close()
    return found


def send(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Deliver over HTTP, with the sender as it is."""
    from eventpost import EventDispatcher
    from eventpost.sender.retry import RetryPolicy

    queue = make_queue(options)
    ready()
    policy = RetryPolicy(breaker_max_s=options.get("breaker_max_s", 30.0))
    dispatcher = EventDispatcher(queue, endpoint=options["url"], linger_s=0.1, retry=policy)
    dispatcher._thread._poke()
    before = 0

    def step() -> int:
        nonlocal before
        time.sleep(0.02)
        now = dispatcher.stats().delivered
        new, before = now - before, now
        return new

    found = until_quiet(step, options.get("quiet_s", 3 * QUIET_S))
    dispatcher.close()
    return found


def idle(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Have a sender look at an empty queue for some seconds."""
    from eventpost import EventDispatcher

    dispatcher = EventDispatcher(make_queue(options), endpoint=options["url"])
    dispatcher._thread._poke()
    time.sleep(0.5)
    ready()
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(options["seconds"])
    found = {"events": 1, "began": began, "ended": time.monotonic(), "cpu_s": time.process_time() - cpu}
    dispatcher.close()
    return found


def bare(options: dict[str, Any], *, puts: bool) -> Callable[[], int]:
    """Return what redis-py does by itself: lists, streams with an entry an event, streams with an entry a batch."""
    import redis

    each, kind, key = options["each"], options["kind"], "bare"
    client = redis.Redis.from_url(options["server"])
    payloads = PAYLOADS[:each]
    if kind == "list":
        if puts:
            return lambda: client.rpush(key, *payloads) and each
        return lambda: len(client.lpop(key, each) or ())
    entries = [{"d": payload} for payload in payloads] if kind == "stream" else [{"d": b"".join(payloads)}]
    events = each // len(entries)

    def add() -> int:
        pipe = client.pipeline(transaction=False)
        for entry in entries:
            pipe.xadd(key, entry)
        pipe.execute()
        return each

    def settle() -> int:
        found = client.xreadgroup("g", "c", {key: ">"}, count=len(entries))
        if not found:
            return 0
        ids = [name for name, _ in found[0][1]]
        pipe = client.pipeline(transaction=False)
        pipe.xack(key, "g", *ids)
        pipe.xdel(key, *ids)
        pipe.execute()
        return len(ids) * events

    if puts:
        return add
    client.xgroup_create(key, "g", id="0", mkstream=True)
    return settle


def bare_put(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Put with redis-py alone."""
    step = bare(options, puts=True)
    ready()
    return counted(options["count"], options["each"], step)


def bare_take(options: dict[str, Any], ready: Callable[[], None]) -> Result:
    """Take, and for streams acknowledge, with redis-py alone."""
    step = bare(options, puts=False)
    ready()
    return until_quiet(step)


ROLES = {one.__name__: one for one in (put, take, send, idle, bare_put, bare_take)}


def main() -> None:
    """Run one role."""
    out = sys.stdout

    def ready() -> None:
        print("ready", file=out, flush=True)
        sys.stdin.readline()

    print(json.dumps(ROLES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text("utf-8")), ready)), file=out)


if __name__ == "__main__":
    main()
