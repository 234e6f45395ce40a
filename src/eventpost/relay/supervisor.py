"""The main process: binds the socket, keeps the workers alive, sends, and ends in order.

Workers accept from one inherited socket that this process holds, too, so connections that wait in it survive the death
of any worker.  A worker that dies is started again (``children.Slot``); one that gives no sign of life for
``worker_timeout_s`` is killed, and then started again.

The end.  SIGTERM or SIGINT (``stopping``): the socket is closed, the workers are told, and answer what they have
accepted.  What they stored is then sent for up to ``drain_timeout_s``; an endpoint that is left alone anyway is not
waited for.  The rest stays on the disk.  A second signal ends the waiting.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections.abc import Callable
from itertools import zip_longest
from typing import Final

from ..doors.dispatcher import EventDispatcher
from ..event import shown_url
from ..queues.protocol import Queue
from ..queues.view import Status
from ..settings import build_transport
from ..watch.signals import Observer, Trouble
from .allowed import AllowedTransport
from .children import BACKLOG, RESTART_FIRST_S, START_S, Slot, Told
from .figures import Figures
from .holding import CannotStart, open_holdings
from .mount import make_metrics, make_observers
from .projects import Projects
from .run_dir import RunDir
from .settings import RelaySettings, share_run_dir
from .state import Monitor
from .stopping import stop_signals
from .tls import tls_context

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(process)d %(message)s"
BIND_TIMEOUT_S: Final = 5.0
TICK_S: Final = 0.1
STOP_SPARE_S: Final = 3.0
_log = logging.getLogger("eventpost.relay")


class Supervisor:
    """The relay, from its main process.

    Args:
        settings: the settings in force.
        say: takes the lines for a person: where it listens, what it waits for.

    Raises CannotStart, JournalUnusable.
    """

    def __init__(self, settings: RelaySettings, *, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        try:
            tls_context(settings)
        except OSError as error:
            raise CannotStart(f"the certificate cannot be used: {error.strerror or error}") from error
        self._holdings = open_holdings(settings)
        self._run_dir = RunDir()
        share_run_dir(self._run_dir.path)
        monitor = Monitor()
        self._observers: tuple[Observer, ...] = (monitor, *make_observers())
        self._dispatchers = [self._dispatcher(one.queue) for one in self._holdings if settings.send]
        self.slots = [Slot() for _ in range(settings.workers)]
        self._stop = stop_signals()
        self._figures = Figures(
            self._run_dir.path, list(zip_longest(self._holdings, self._dispatchers)), self.slots, monitor,
            make_metrics(self._run_dir.path).refused_by_reason,
        )  # fmt: skip

    def _dispatcher(self, queue: Queue) -> EventDispatcher:
        return EventDispatcher(
            queue, send_to=self._settings.endpoint, sender="thread", observers=self._observers,
            transport=AllowedTransport(build_transport(), self._settings.allowed_urls),
            close_timeout_s=self._settings.drain_timeout_s, project_of=Projects(),
        )  # fmt: skip

    # -- life

    def run(self) -> int:
        """Run until a signal; return the exit code."""
        code = 1
        try:
            listener = self._bind()
            try:
                for one in self._holdings:
                    one.look()
                for dispatcher in self._dispatchers:
                    dispatcher.start()
                self._figures.start()
                if self._start_all(listener):
                    self._announce(listener)
                    self._live(listener)
                code = 0
            finally:
                listener.close()
                self._stop_workers()
        finally:
            self._drain()
            self._figures.close()
            self._run_dir.remove()
        return code

    def _bind(self) -> socket.socket:
        """Return the listening socket; waits for workers of a relay that was killed just now to let go of theirs."""
        host, port = self._settings.address
        deadline = time.monotonic() + BIND_TIMEOUT_S
        while True:
            try:
                # Who says localhost in an URL may mean either family, and most mean the older one.
                family = socket.AF_INET if host == "localhost" else socket.AF_UNSPEC
                family, kind, number, _, where = socket.getaddrinfo(
                    host, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
                listener = socket.socket(family, kind, number)
                try:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6 and host == "::":
                        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    listener.bind(where)
                    listener.listen(BACKLOG)
                except OSError:
                    listener.close()
                    raise
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline or self._stop.told():
                    raise CannotStart(f"{self._settings.listen}: {error.strerror or error}") from error
                time.sleep(TICK_S)
            else:
                return listener

    def _start_all(self, listener: socket.socket) -> bool:
        """Start every worker and wait until all are ready; False: told to stop meanwhile.  Raises CannotStart."""
        if self._stop.told():
            return False
        for slot in self.slots:
            self._start(slot, listener)
        deadline = time.monotonic() + START_S
        while not all(slot.ready for slot in self.slots):
            if self._stop.told():
                return False
            for slot in self.slots:
                slot.look(time.monotonic())
                code = slot.reap(time.monotonic())
                if code is not None:
                    raise CannotStart(f"a worker ended with {code} before it was ready; see what it said above")
            if time.monotonic() > deadline:
                raise CannotStart(f"the workers were not ready within {START_S:g} s")
            self._wait(TICK_S / 4)
        return True

    def _start(self, slot: Slot, listener: socket.socket) -> None:
        slot.start(listener, Told(self._settings, self._run_dir.path, LOG_FORMAT))

    def _announce(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        scheme = "https" if self._settings.tls_cert else "http"
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{self._settings.prefix}"
        goes = f"sending to {shown_url(self._settings.us_url)}" if self._settings.send else "others send"
        what = "journal" if self._settings.queue is None else "queue"
        self._say(f"eventpost relay: listening on {where}, {what} {self._holdings[0].view.place}, {goes}")

    def _live(self, listener: socket.socket) -> None:
        """Keep the workers alive, and the state written, until a signal."""
        while not self._stop.told():
            now = time.monotonic()
            for slot in self.slots:
                slot.look(now)
                if slot.hangs(now, self._settings.worker_timeout_s):
                    self._end_hanging(slot)
                code = slot.reap(now)
                if code is not None:
                    _log.error("eventpost relay: a worker ended with %d; another one takes its place", code)
                if slot.process is None and now >= slot.due_at:
                    try:
                        self._start(slot, listener)
                    except OSError as error:
                        _log.error("eventpost relay: a worker cannot be started: %s", error.strerror)
                        slot.due_at = now + RESTART_FIRST_S
            self._wait(TICK_S)

    def _end_hanging(self, slot: Slot) -> None:
        """Kill a worker that says nothing: stopped, or in a loop without an end; what it stored is in the folder."""
        slot.kill()
        told = f"a worker gave no sign of life for {self._settings.worker_timeout_s:g} s, and was killed"
        _log.error("eventpost relay: %s", told)
        for observer in self._observers:
            observer(Trouble("worker_hung", told))

    def _wait(self, timeout_s: float) -> None:
        """Wait for a signal or a worker's word or end."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._stop.fd, selectors.EVENT_READ)
            for slot in self.slots:
                if slot.life is not None and not slot.ready:
                    waiting.register(slot.life, selectors.EVENT_READ)
            waiting.select(timeout_s)
        self._stop.drain()

    # -- the end

    def _stop_workers(self) -> None:
        """Tell the workers to stop, and wait until they have; end by force what does not."""
        for slot in self.slots:
            slot.tell_to_stop()
        deadline = time.monotonic() + self._settings.stop_timeout_s + STOP_SPARE_S
        for slot in self.slots:
            if not slot.wait_for_end(deadline - time.monotonic()):
                _log.error("eventpost relay: a worker did not stop in time, and was killed; what it stored is kept")

    def _drain(self) -> None:
        """Send what is queued, up to a deadline, and let go of the journals.  A signal ends the waiting."""
        deadline = time.monotonic() + self._settings.drain_timeout_s
        self._stop.impatient = True  # a dispatcher at its end takes KeyboardInterrupt for: do not wait
        for one in self._holdings:
            one.look()  # what the workers left
        for dispatcher in self._dispatchers:
            dispatcher.hurry()
        for dispatcher in self._dispatchers:
            dispatcher.close_at_exit(max(0.0, deadline - time.monotonic()))
        if not self._dispatchers:
            for one in self._holdings:
                one.queue.close()

    def status(self) -> list[Status]:
        """Return the queues' sums, for the last line.  Raises as :class:`~eventpost.queues.view.View`."""
        return [one.view.status() for one in self._holdings]
