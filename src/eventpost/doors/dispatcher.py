"""EventDispatcher: the provided asynchronous dispatcher; it puts queue, sender, transport and ledger together.

A door does little: encode, check, put, notice.  ``dispatch_event`` is the SDK's face; ``put_event`` and ``refuse`` are
the face for our other doors (EventProcessor, AsyncEventDispatcher), which encode for themselves.

Every event that is offered is either in the queue when the door returns True, or counted as refused with its reason.

What the end of a process and a fork mean for a dispatcher is in ``lifetime.py``.
"""

from __future__ import annotations

import logging
import random as _random
import sys
from collections.abc import Callable, Iterable
from os import getpid
from typing import TYPE_CHECKING, Any, Literal

from .. import guard, settings
from ..clock import Clock, SystemClock
from ..errors import EventpostError, QueueError
from ..event import Event
from ..queues.protocol import Queue, QueueStats
from ..sender.lane import Limits
from ..sender.loop import OnRequest, Sender
from ..sender.primitives import Lock, get_ident, pause
from ..sender.retry import RetryPolicy
from ..sender.thread import SenderThread
from ..transports.custom import as_transport
from ..watch.ledger import Report, Tally, make_report
from ..watch.logs import LogObserver
from ..watch.signals import Closed, Observer, Refused, Signal
from . import lifetime
from .encode import check_url, log_event_to_event
from .threads import PutThreads, Tell

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("eventpost")
_SAFE_URLS_MAX = 1000
_CLOSE_AGAIN_POLL_S = 0.01
_PUTS_AT_EXIT_S = 2.0
"""How long exit waits for puts into a durable queue.  A sync takes milliseconds; else it is full, or its disk hangs."""
_LATE_PUTS_S = 0.1


class EventDispatcher:
    """Takes events, and delivers them in the background.

    Args:
        queue: where events wait; None for the one that EVENTPOST_QUEUE names, else a ``MemoryQueue()``.  One for each
            dispatcher; JournalQueues share folders.
        endpoint: URL to send everything to instead of each event's own; stored with the event.
        send_to: URL that this process sends everything to, whatever is stored with the events, also with those that
            others stored; None: where it is stored for.
        transport: how requests leave: a Transport, or any object with ``dispatch_event(event)``; None for HTTP.
        retry: when to try again.
        batch_events_max: events in one request.
        batch_bytes_max: bytes of a shared request's body, at most 3,000,000.
        linger_s: seconds that a visitor which may find company waits for it.  A LogEvent never waits, unless
            ``merge_log_events`` makes company possible for its visitors.
        in_flight_max: ceiling on requests in flight; they start at 4 an endpoint and double while a backlog stands. A
            few are kept free for other endpoints, so that one which hangs holds up none.
        in_flight_bytes_max: ceiling on the bytes of their bodies; exceeded by a request for each endpoint at most.
        timeout_s: seconds for one request in total, DNS included.
        close_timeout_s: seconds that the end of the process waits for a drain, and the default of :meth:`close`.
        merge_log_events: let LogEvents with equal URL, headers and envelope share requests.
        sender: ``"thread"``, or ``"none"``: this process only stores, another one delivers.
        observers: callables that take one Signal each; never called under a lock.
        clock: time, for everything that decides by it.
        random: returns a float in [0, 1), for jitter.
        project_of: returns an event's project, which signals then name; must not raise.  None: they name none.

    Raises ValueError or TypeError, naming the argument (or the environment variable that stands in for it).
    """

    def __init__(
        self,
        queue: Queue | None = None,
        *,
        endpoint: str | None = None,
        send_to: str | None = None,
        transport: Any = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        batch_events_max: int = settings.BATCH_EVENTS_MAX,
        batch_bytes_max: int = settings.BATCH_BYTES_MAX,
        linger_s: float = settings.LINGER_S,
        in_flight_max: int = settings.IN_FLIGHT_MAX,
        in_flight_bytes_max: int = settings.IN_FLIGHT_BYTES_MAX,
        timeout_s: float = settings.TIMEOUT_S,
        close_timeout_s: float = settings.CLOSE_TIMEOUT_S,
        merge_log_events: bool = False,
        sender: Literal["thread", "none"] | str = settings.SENDER,  # noqa: PYI051 - the environment's text too
        observers: Iterable[Observer] = (),
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
        project_of: Callable[[Event], str] | None = None,
    ) -> None:
        self.endpoint: str | None = settings.setting("endpoint", endpoint)
        self._send_to = send_to
        for url in (self.endpoint, send_to):
            if url is not None:
                check_url(url)
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
        self.queue: Queue = settings.build_queue() if queue is None else _checked_queue(queue)
        self.merge_log_events = bool(merge_log_events)
        self.close_timeout_s: float = settings.setting("close_timeout_s", close_timeout_s)
        self._observers: tuple[Observer, ...] = (LogObserver(clock=clock), *_checked_observers(observers))
        self._guarded: bool = transport is None or getattr(transport, "is_guarded", False)
        self._safe_urls: set[str] = set()
        transport = settings.build_transport() if transport is None else as_transport(transport)
        limits = Limits(
            batch_events_max=settings.setting("batch_events_max", batch_events_max),
            batch_bytes_max=settings.setting("batch_bytes_max", batch_bytes_max),
            linger_s=settings.setting("linger_s", linger_s),
            in_flight_max=min(
                settings.setting("in_flight_max", in_flight_max),
                getattr(transport, "in_flight_max", None) or sys.maxsize,
            ),
            in_flight_bytes_max=settings.setting("in_flight_bytes_max", in_flight_bytes_max),
            timeout_s=settings.setting("timeout_s", timeout_s),
        )
        if self.queue.lease_s is not None and self.queue.lease_s <= limits.timeout_s + limits.linger_s:
            raise ValueError(
                f"the queue's lease_s ({self.queue.lease_s:g}) must exceed timeout_s + linger_s "
                f"({limits.timeout_s + limits.linger_s:g}): events would be sent twice"
            )
        self._transport = transport
        self.on_request: list[OnRequest] = []
        self._clock: Clock = clock or SystemClock()
        self._sends = settings.setting("sender", sender) == "thread"
        if not self._sends and self.queue.durability == "memory":
            raise ValueError("sender='none' needs a queue that another process can read: a JournalQueue, not memory")
        if hasattr(self.queue, "emit"):
            self.queue.emit = self._emit
        self._sender = Sender(
            self.queue,
            transport,
            clock=self._clock,
            chance=random or _random.random,
            emit=self._emit,
            policy=retry,
            limits=limits,
            send_to=send_to,
            on_request=self.on_request,
            project_of=project_of or (lambda _: ""),
        )
        self._thread = SenderThread(
            self._sender, self.queue, transport, clock=self._clock, emit=self._emit, on_start=self._keep_alive,
            may_start=lifetime.threads_may_start,
        )  # fmt: skip
        self._start_from_zero()
        self._closed = False
        self._closed_because = "the dispatcher is closed"
        self._last_report: Report | None = None
        if not lifetime.register(self):  # this process's exit handlers have run: nobody would wait for its sending
            self._sends = False
            if self.queue.durability == "memory":
                self._closed, self._closed_because = True, "the process ends: nothing would send this any more"
        if hasattr(self.queue, "sends"):
            self.queue.sends = self._sends
        if hasattr(self.queue, "may_start"):  # it may need a thread of its own
            self.queue.may_start = lifetime.a_helper_may_start
        self._put = self.queue.put
        self._notice = self._thread.notice if self._sends else _nobody_to_notice

    def _start_from_zero(self) -> None:
        self._refused = Tally()
        self.put_threads = PutThreads(may_start=lifetime.threads_may_start)
        self._close_lock = Lock()
        self._closer: int | None = None
        self._said_test_run = False

    # -- doors

    def dispatch_event(self, event: Any) -> Any:
        """Take a LogEvent, or any object with ``url``, ``params``, ``http_verb`` and ``headers``.

        True once the queue has it at its durability; False if it was refused: counted, logged, signalled.  Never waits
        for the network.  Raises TypeError for an object that is no log event, and nothing else.  The bool is typed Any,
        because the SDK's own protocol says None, and a type checker would refuse it in the client's constructor.
        """
        if self._closed:
            return self.refuse("closed", self._closed_because)
        try:
            ready = log_event_to_event(event, endpoint=self.endpoint, merge=self.merge_log_events)
        except EventpostError as error:
            return self.refuse(getattr(error, "reason", "invalid"), str(error))
        return self.put_event(ready, urgent=not ready.envelope.shared)

    def put_event(self, event: Event, *, urgent: bool, handed_in: bool = False) -> bool:
        """Put an encoded event into the queue; the face for our other doors.  ``urgent``: it waits for no company.

        ``handed_in``: it was while the dispatcher was open, and is taken for as long as the queue is.
        """
        if getpid() != lifetime.process:
            lifetime.in_this_process()
        envelope, size = event.envelope, len(event.payload)
        url = envelope.url
        if self._closed and not handed_in:
            return self.refuse("closed", self._closed_because)
        if url not in self._safe_urls and not self._may_send(url):
            return False
        if size > settings.BATCH_BYTES_MARGIN_MAX:  # what stands around a visitor counts; few are that large
            size += len(envelope.prefix) + len(envelope.suffix)
            if size > settings.ENDPOINT_BODY_BYTES_MAX:
                return self.refuse("too_large", f"{size:,} bytes; the endpoint takes 3.5 MB")
        try:
            self._put((event,))
        except QueueError as error:
            return self.refuse(error.reason, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a queue raises must not reach the application
            return self.refuse("queue_unavailable", type(error).__name__)  # its text may quote the event
        self._notice(url, urgent)
        return True

    def put_on_thread(self, event: Event, *, urgent: bool, tell: Tell) -> None:
        """Have :meth:`put_event` called on a thread, for a put that may wait; ``flush`` and ``close`` wait for it."""
        lifetime.in_this_process()
        if self._closed:
            tell(self.refuse("closed", self._closed_because), None)
            return
        self.put_threads.run(lambda: self.put_event(event, urgent=urgent, handed_in=True), tell)

    def refuse(self, reason: str, detail: str) -> bool:
        """Count an event as refused, tell the observers, and return False.  ``detail`` must hold no payload."""
        self._refused.add(reason)
        self._emit(Refused(reason, 1, detail))
        return False

    def _may_send(self, url: str) -> bool:
        """Return whether events may go to this URL from here: not to Optimizely from a test run."""
        guarded = self._guarded and guard.is_optimizely(self._send_to or url)
        evidence = guard.evidence() if guarded else None
        if evidence is None:
            if not (guarded and guard.may_begin()):
                if len(self._safe_urls) >= _SAFE_URLS_MAX:
                    self._safe_urls.clear()
                self._safe_urls.add(url)
            return True
        self._refused.add("test_run")
        detail = "" if self._said_test_run else f"{evidence}; {guard.LIFTED_BY}"
        self._said_test_run = True
        self._emit(Refused("test_run", 1, detail))
        return False

    # -- the count and the end

    def stats(self) -> Report:
        """Return the count at this instant."""
        lifetime.in_this_process()
        return make_report(self.queue.stats(), self._refused.read())

    def start(self) -> None:
        """Start sending before this process has stored anything: for one that delivers what others stored.  Idempotent.

        The first event starts it anyway.  Nothing happens with ``sender="none"``, or once closed.
        """
        lifetime.in_this_process()
        if self._sends and not self._closed:
            self._thread.start()

    def flush(self, timeout_s: float = 10.0) -> Report:
        """End lingering at once and wait, up to ``timeout_s`` seconds, for what was accepted before; return the count.

        With ``sender="none"`` make the stored events as safe as the queue can.
        """
        _check_timeout(timeout_s)
        lifetime.in_this_process()
        if not self._closed:
            timeout_s = self.put_threads.wait(timeout_s, self._clock)
            if self._sends:
                self._thread.flush(timeout_s)
            else:
                self.queue.sync(timeout_s)
        return self.stats()

    def close(self, timeout_s: float | None = None) -> Report:
        """Refuse what comes from now on, flush within ``timeout_s`` seconds, stop, and return the last count.

        Ends within ``timeout_s`` (None: ``close_timeout_s``) plus half a second, whatever the endpoint does.  What is
        left then stays in a durable queue, and is dropped from one in memory, counted as ``memory_at_exit``.
        Idempotent. An observer that calls it on the sender's own thread only ends the taking of events: a thread can't
        wait for itself; the next ``close``, or the end of the process, does the rest.
        """
        timeout_s = self.close_timeout_s if timeout_s is None else timeout_s
        _check_timeout(timeout_s)
        return self._close(timeout_s, at_exit=False)

    def close_at_exit(self, timeout_s: float) -> None:
        """Close at the end of the process: tell on stderr what it waits for; do not wait for an endpoint left alone."""
        self._close(timeout_s, at_exit=True)

    def _close(self, timeout_s: float, *, at_exit: bool) -> Report:
        lifetime.in_this_process()
        self._closed = True
        if self._thread.on_own_thread:
            return self.stats()
        if not self._close_lock.acquire(False):  # closed already, or somebody is at it
            if self._closer == get_ident():  # a signal handler over this thread's own close can't wait for it
                return self.stats()
            deadline = self._clock.monotonic() + timeout_s
            while self._last_report is None and self._clock.monotonic() < deadline:
                pause(_CLOSE_AGAIN_POLL_S)
            return self.stats()
        self._closer = get_ident()
        try:
            return self._close_now(timeout_s, at_exit=at_exit)
        finally:
            self._closer = None
            if self._last_report is None:  # interrupted: the next close, or the end of the process, does it again
                self._close_lock.release()

    def _close_now(self, timeout_s: float, *, at_exit: bool) -> Report:
        durable = self.queue.durability != "memory"
        try:
            told = self._say_waiting(timeout_s) if at_exit else None
            puts_s = min(timeout_s, _PUTS_AT_EXIT_S) if at_exit and durable else timeout_s
            timeout_s -= puts_s - self.put_threads.wait(puts_s, self._clock, told)
            if self._sends:
                self._thread.flush(timeout_s, hopeless_ends_it=at_exit and durable, told=told)
            else:
                self.queue.sync(timeout_s)
        except BaseException as error:  # what a signal handler raised; at exit Ctrl-C means: do not wait
            self._end(durable=durable)
            if not at_exit or not isinstance(error, KeyboardInterrupt):
                raise
        return self._end(durable=durable)

    def hurry(self) -> None:
        """End lingering and go on sending, in the background: the process ends soon."""
        if self._sends and not self._closed:
            self._thread.hurry()

    def _end(self, *, durable: bool) -> Report:
        if self._last_report is not None:  # closed before, in a forked child by its parent: the count is this process's
            return self.stats()
        self._thread.close()
        try:
            self.queue.close()
        except Exception:  # noqa: BLE001 - logged; the count is still worth telling
            _log.exception("eventpost: the queue could not be closed")
        self.put_threads.wait(_LATE_PUTS_S, self._clock)  # they are refused now, and belong to the last count
        self.put_threads.end()
        if not durable:
            drop: Callable[[str], int] | None = getattr(self.queue, "drop_remaining", None)
            if drop is not None:
                drop("memory_at_exit")
        self._sender.tell_dropped()
        self._last_report = report = self.stats()
        self._emit(Closed(report))
        lifetime.let_go(self)
        return report

    def _say_waiting(self, timeout_s: float) -> Callable[[], None]:
        said = False

        def say() -> None:
            nonlocal said
            stats: QueueStats = self.queue.stats()
            if said or not stats.queued + stats.in_flight:
                return  # said already, or only a thread's end is waited for
            said = True
            fate = "stay in the queue" if self.queue.durability != "memory" else "would be lost"
            left_here: Callable[[], str] | None = getattr(self.queue, "left_here", None)
            if left_here is not None and (here := left_here()):
                fate = f"{fate}, {here}"
            text = (
                f"eventpost: {stats.queued + stats.in_flight} events pending, "
                f"waiting up to {round(timeout_s, 1):g} s for them; Ctrl-C to leave at once (they {fate})"
            )
            try:
                print(text, file=sys.stderr, flush=True)  # noqa: T201 - logging may be shut down by now
            except (OSError, ValueError, AttributeError):
                return

        return say

    def _keep_alive(self) -> None:
        lifetime.keep_alive(self)

    def _emit(self, signal: Signal) -> None:
        for observer in self._observers:
            try:
                observer(signal)
            except KeyboardInterrupt:  # a person's, and not the observer's
                raise
            except BaseException:  # noqa: BLE001 - logged; an observer's mistake, sys.exit too, costs nothing else
                _log.exception("eventpost: an observer failed")

    def after_fork_in_child(self) -> None:
        """Start from zero in the child; what is queued and in flight is the parent's."""
        self._start_from_zero()
        self.queue.after_fork_in_child()
        self._transport.after_fork_in_child()
        self._thread.after_fork_in_child()

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EventDispatcher({self.stats()}{', closed' if self._closed else ''})"


def _nobody_to_notice(lane: str, urgent: bool) -> None:  # noqa: ARG001, FBT001 - stands in for SenderThread.notice
    return


def _checked_queue(queue: Any) -> Queue:
    if not isinstance(queue, Queue):
        raise TypeError(f"queue must be a Queue (MemoryQueue, JournalQueue(path), ...), not {type(queue).__name__}")
    if any(other.queue is queue for other in lifetime.living_here() if isinstance(other, EventDispatcher)):
        raise ValueError("this queue belongs to another dispatcher, which would count and close it: make one for each")
    return queue


def _checked_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    checked = tuple(observers)
    for observer in checked:
        if not callable(observer):
            raise TypeError(f"an observer must be callable with one Signal; {type(observer).__name__} is not")
    return checked


def _check_timeout(timeout_s: float) -> None:
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
        raise TypeError(f"timeout_s must be a number of seconds, not {type(timeout_s).__name__}")
    if not 0 <= timeout_s < float("inf"):
        raise ValueError(f"timeout_s must be 0 or more seconds, and finite, not {timeout_s!r}")
