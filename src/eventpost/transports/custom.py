"""Any object with ``dispatch_event(event)`` as a transport: our queue, batches and retries in front of your dispatcher.

Your dispatcher is handed a LogEvent whose ``params`` is a dict, as the SDK would hand it over.  ``False`` and an
exception mean "later"; None, which is what the SDK's own protocol returns, and everything else mean delivered.  It
runs on one daemon thread of its own, never on the sender's, one event after the other.  A call that has not returned
after the timeout counts as failed, is repeated later, and its thread is replaced: a hung dispatcher costs a thread, not
the queue.  An event in which it hangs ``CALLS_MAX`` times over is not handed to it again before one of these calls
returns: else one that makes it hang for ever would take thread after thread until none is left for the others.

That thread is started with the sender's and stays: at the end of the process, where most is still to be sent, Python
3.12 lets nobody start one.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final
from urllib.parse import parse_qs

from ..event import Envelope, LogEvent
from .protocol import Request, Response, Transport, TransportError
from .threads import Job, ThreadedTransport, Worker

STUCK_MAX: Final = 24
"""How many threads may hang in a dispatcher at once; beyond that, events wait until one of them returns."""
CALLS_MAX: Final = 4
"""How many calls with the same event may hang at once."""
_DELIVERED: Final = Response(204)


class CustomTransport(ThreadedTransport):
    """Puts ``dispatcher.dispatch_event(log_event)`` behind the Transport protocol.

    ``dispatcher`` may be a class whose ``dispatch_event`` is static, as the SDK's own is; nothing is instantiated.
    Raises TypeError for an object that can't be called this way.
    """

    keeps_threads = True

    def __init__(self, dispatcher: Any) -> None:
        _check(dispatcher)
        self.dispatcher = dispatcher
        super().__init__(threads_max=1, stuck_max=STUCK_MAX)

    def make_ready(self) -> None:
        """Start the thread, if there is none."""
        if not self._workers:
            self._employ()

    def _attempt(self, request: Request, job: Job, worker: Worker) -> Response | TransportError:
        del job, worker  # the deadline is kept by the waiting side; nothing is held between attempts
        try:
            log_event = as_log_event(request)
        except ValueError as error:
            return TransportError("other", f"the body is not an event: {type(error).__name__}")
        call = (request.envelope, request.body)
        if self._calls.count(call) >= CALLS_MAX:
            return TransportError("dispatcher", "dispatch_event has not returned from earlier calls with this event")
        self._calls.append(call)
        try:
            answer = self.dispatcher.dispatch_event(log_event)
        except BaseException as error:  # noqa: BLE001 - somebody else's code: whatever it raises means "later"
            return TransportError("dispatcher", f"dispatch_event raised {type(error).__name__}")
        finally:
            self._calls.remove(call)
        if answer is False:
            return TransportError("dispatcher", "dispatch_event returned False")
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            return TransportError("dispatcher", "dispatch_event returned an awaitable: it must do its work itself")
        return _DELIVERED

    def _interrupt(self, worker: Worker) -> None:
        """Nothing interrupts somebody else's code."""

    def _leave(self, worker: Worker) -> None:
        """Nothing is held."""

    def _forget(self) -> None:
        super()._forget()
        self._calls: list[tuple[Envelope, bytes]] = []  # this thread's, and those of threads that were replaced

    def __repr__(self) -> str:
        kind = self.dispatcher if isinstance(self.dispatcher, type) else type(self.dispatcher)
        return f"{super().__repr__()[:-1]}, dispatcher={kind.__qualname__})"


def as_log_event(request: Request) -> LogEvent:
    """Return the request as the SDK's unit of dispatch.  Raises ValueError if its body is no JSON object.

    Of a query string, the params are text, and a list of texts where a key is repeated.
    """
    envelope = request.envelope
    if envelope.verb == "GET":
        several = parse_qs(request.body.decode(), keep_blank_values=True)
        params: Any = {key: values if len(values) > 1 else values[0] for key, values in several.items()}
    else:
        params = json.loads(request.body)  # the standard library's: integers of any size stay integers
    if not isinstance(params, dict):
        msg = "not an object"
        raise ValueError(msg)  # noqa: TRY004 - wrong JSON, not a wrong argument
    return LogEvent(envelope.url, params, envelope.verb, dict(envelope.headers))


def as_transport(obj: Any) -> Transport:
    """Return ``obj`` if it is a Transport, a CustomTransport around it if it has ``dispatch_event``.

    Raises TypeError for anything else.
    """
    if not isinstance(obj, type) and isinstance(obj, Transport):
        return obj
    return CustomTransport(obj)


def _check(dispatcher: Any) -> None:
    name = dispatcher.__qualname__ if isinstance(dispatcher, type) else type(dispatcher).__qualname__
    method = getattr(dispatcher, "dispatch_event", None)
    if not callable(method):
        msg = f"expected a Transport or an object with dispatch_event(event) -> bool, not {name}"
        raise TypeError(msg)
    if isinstance(dispatcher, type) and inspect.isfunction(inspect.getattr_static(dispatcher, "dispatch_event")):
        msg = f"{name}.dispatch_event needs an instance: pass {name}(), not the class"
        raise TypeError(msg)
    if inspect.iscoroutinefunction(method):
        msg = f"{name}.dispatch_event is a coroutine function; it must do its work before it returns"
        raise TypeError(msg)
