"""One connection to one server.  The only file that imports redis.

redis-py connects (TCP options, TLS, the user's login, its parser in C); what is asked and how long that may take is
decided here.  Every wait has the time that is left of its caller's: names are resolved on a thread, one address after
the other is tried, sending as a whole and answers as a whole, however many pieces they come in, end with it.

An answer that is an error of the server's comes back as a :class:`Fault` among the others; a connection that broke, or
was too slow, is closed and raises :class:`Broken`.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo would import it, maybe on a thread, while somebody forks
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from inspect import signature
from time import monotonic
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, DefaultParser, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from ...sender.primitives import Event, start_new_thread
from ...transports.tls import Authorities
from .address import Place
from .timed import Timed

__all__ = ["SCRIPTS", "Broken", "Fault", "Link", "Login", "Script", "key_slot"]

_READ_BYTES: Final = 1 << 16
_LEAST_S: Final = 0.001
_NO_GREETING: Final[dict[str, Any]] = (
    {"driver_info": None}
    if "driver_info" in signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}  # redis-py before 7.1
)
"""redis-py would tell its version with each connection: two more waits."""
Command = tuple[Any, ...]


class Broken(Exception):  # noqa: N818 - names a state
    """There is no answer.  ``sent``: something was asked, so it may have been done.  ``closed``: by the other side."""

    def __init__(self, message: str, *, sent: bool, closed: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.closed = closed


class Fault(ResponseError):  # noqa: N818 - an answer, raised only inside redis-py
    """The server's answer is an error.  ``code`` is its first word: OOM, MOVED, NOPERM, ..."""

    @property
    def code(self) -> str:
        """The error's first word."""
        return str(self).partition(" ")[0]

    @property
    def is_no_room(self) -> bool:
        """Whether the server has as many connections as it takes; it has closed this one and done nothing."""
        return str(self).startswith("ERR max number of clients")


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]  # redis-py chooses the class when it is imported
    """redis-py's parser, but an error's text stays as the server wrote it."""

    @classmethod
    def parse_error(cls, response: str) -> Fault:
        """Return the error."""
        return Fault(response)


class _Tcp(Connection):
    """To a number, whatever the name: the name was resolved in time before."""

    number = ""
    until = 0.0

    def _connect(self) -> Any:
        return Timed(self._reached(), self.until)

    def _reached(self) -> Any:
        name = self.host
        self.host = self.number or name
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.host = name


class _Tls(_Tcp):
    """With TLS, trusting those who were named and nobody else: redis-py's own would trust the system's beside them."""

    context: ssl.SSLContext

    def _reached(self) -> Any:
        sock = super()._reached()
        try:
            sock.settimeout(max(_LEAST_S, self.until - monotonic()))
            return self.context.wrap_socket(sock, server_hostname=self.host)
        except OSError:
            sock.close()
            raise


class _Unix(UnixDomainSocketConnection):
    """To a socket of the system."""

    until = 0.0

    def _connect(self) -> Any:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(_LEAST_S, self.until - monotonic()))
            sock.connect(self.path)
        except BaseException:
            sock.close()  # redis-py 5.0 would leave it open
            raise
        return Timed(sock, self.until)


@dataclass(frozen=True, slots=True)
class Script:
    """One script with what stands in front of all; ``sha`` is what the server knows it by."""

    name: str
    source: str
    sha: str


@lru_cache(maxsize=1)
def _load() -> dict[str, Script]:
    folder = files(__package__).joinpath("lua")
    sources = {one.name.removesuffix(".lua"): one.read_text("utf-8") for one in folder.iterdir()}
    common = sources.pop("common")
    made = {}
    for name, source in sources.items():
        whole = common + source
        made[name] = Script(name, whole, sha1(whole.encode(), usedforsecurity=False).hexdigest())
    return made


SCRIPTS: Final = _load()


class Login:
    """Who we are to a server, and whom we trust.  Its repr is as good as empty: it holds a password."""

    def __init__(
        self, *, username: str | None, password: str | None, database: int, authorities: Authorities | None
    ) -> None:
        """Keep the arguments; ``authorities`` None: no TLS."""
        self.username = username
        self.password = password
        self.database = database
        self.authorities = authorities

    def __repr__(self) -> str:
        return f"Login(tls={self.authorities is not None})"


class Link:
    """One connection.  One caller at a time; closed for good once it broke."""

    def __init__(self, place: Place, login: Login, deadline: float) -> None:
        """Connect by ``deadline``, in monotonic seconds.  Raises Broken, or Fault if the server lets nobody in."""
        self.place = place
        self._connection: Any = None
        tried: Exception | None = None
        numbers = [place.host] if not place.port else _numbers(place, deadline)
        for at, number in enumerate(numbers):
            left_s = deadline - monotonic()
            if left_s < _LEAST_S:
                break
            until = monotonic() + left_s / (len(numbers) - at)  # one that is silent must leave time for the others
            try:
                self._connection = _connected(place, number, login, until)
            except Fault as fault:
                if fault.is_no_room:
                    raise _no_room(place) from None
                raise
            except (RedisError, OSError, ValueError) as error:
                tried = error
            else:
                return
        raise Broken(f"{place} cannot be reached: {_said(tried)}", sent=False) from None

    def ask(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send all commands at once and return their answers, errors among them as Fault.  Raises Broken."""
        connection = self._connection
        sent = False
        try:
            connection._sock.until = max(deadline, monotonic() + _LEAST_S)  # noqa: SLF001 - see the module
            packed = connection.pack_commands(commands)
            sent = True
            connection.send_packed_command(packed, check_health=False)
            answers = []
            for _ in commands:
                try:
                    answers.append(connection.read_response())
                except Fault as fault:
                    if fault.is_no_room:
                        raise _no_room(self.place) from None
                    answers.append(fault)
        except (RedisError, OSError, AttributeError) as error:
            self.close()
            closed = not isinstance(error, (TimeoutError, RedisTimeoutError))
            raise Broken(f"{self.place} does not answer: {_said(error)}", sent=sent, closed=closed) from None
        except BaseException:
            self.close()  # half an answer may lie there
            raise
        return answers

    def run(self, calls: Sequence[Command], deadline: float) -> list[Any]:
        """As ``ask``, with scripts: a call that begins with a :class:`Script` has its keys' number and arguments next.

        A server that does not know the scripts (it was restarted) is handed them, and asked once more for what it
        could not do.
        """
        commands = [("EVALSHA", one[0].sha, *one[1:]) if isinstance(one[0], Script) else one for one in calls]
        answers = self.ask(commands, deadline)
        unknown = [at for at, one in enumerate(answers) if isinstance(one, Fault) and one.code == "NOSCRIPT"]
        if not unknown:
            return answers
        for one in self.ask([("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()], deadline):
            if isinstance(one, Fault):
                return [one] * len(calls)
        first = unknown[0] - (commands[unknown[0] - 1] == ("ASKING",))
        again = range(first, len(commands))  # what follows may be about what could not be done
        for at, answer in zip(again, self.ask([commands[at] for at in again], deadline), strict=True):
            answers[at] = answer
        return answers

    def close(self) -> None:
        """Close the connection; in a forked child without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    @property
    def is_open(self) -> bool:
        """Whether it did not break yet, as far as is known."""
        return self._connection is not None

    def __repr__(self) -> str:
        return f"Link({self.place})"


def _connected(place: Place, number: str, login: Login, deadline: float) -> Any:
    wait_s = max(_LEAST_S, deadline - monotonic())
    options: dict[str, Any] = {
        "username": login.username, "password": login.password, "db": login.database,
        "socket_timeout": wait_s, "socket_connect_timeout": wait_s, "protocol": 2, "parser_class": _Parser,
        "retry": Retry(NoBackoff(), 0), "socket_read_size": _READ_BYTES, **_NO_GREETING,
    }  # fmt: skip
    kind: Any = _Tcp if login.authorities is None else _Tls
    if place.port:
        connection = kind(host=place.host, port=place.port, **options)
        connection.number = number
    else:
        kind = _Unix
        connection = kind(path=place.host, **options)
    connection.until = deadline
    if login.authorities is not None:
        connection.context = _context(login.authorities)
    try:
        connection.connect()
    except BaseException:
        connection.disconnect()
        raise
    return connection


def _no_room(place: Place) -> Broken:
    why = "it has as many connections as it takes: raise its maxclients, or close some"
    return Broken(f"{place} cannot be reached: {why}", sent=False)


def _context(authorities: Authorities) -> ssl.SSLContext:
    if authorities.path is None:
        return ssl.create_default_context()
    if authorities.is_directory:
        return ssl.create_default_context(capath=authorities.path)
    return ssl.create_default_context(cafile=authorities.path)


def _numbers(place: Place, deadline: float) -> list[str]:
    """Return a host's addresses as numbers.  The system's resolver knows no deadline, so it is asked on a thread."""
    host = place.host
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [host]
    found: list[str] = []
    why: list[str] = []
    done = Event()

    def resolve() -> None:
        try:
            for *_, address in socket.getaddrinfo(host, place.port, 0, socket.SOCK_STREAM):
                if str(address[0]) not in found:
                    found.append(str(address[0]))
        except (OSError, UnicodeError) as error:
            why.append(_said(error))
        finally:
            done.set()

    start_new_thread(resolve, ())
    if not done.wait(deadline - monotonic()):
        raise Broken(f"{place} cannot be reached: its name was not resolved in time", sent=False)
    if not found:
        raise Broken(f"{place} cannot be reached: its name is not known ({''.join(why)})", sent=False)
    return list(found)


def _said(error: Exception | None) -> str:
    """Return an error's words: redis-py's name hosts and reasons, never what was sent."""
    if error is None:
        return "no time left"
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
