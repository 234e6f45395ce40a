"""The public names: what they take, in which order, and with which defaults.  Names may be added, none renamed."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from optimizely.optimizely_factory import OptimizelyFactory as SdkFactory

import eventpost
from eventpost import (
    AsyncEventDispatcher,
    EventDispatcher,
    EventProcessor,
    JournalQueue,
    LogEvent,
    MemoryQueue,
    OptimizelyFactory,
    RedisStreamsQueue,
    Report,
    RetryPolicy,
)

NEEDED = inspect.Parameter.empty
MIB = 1024 * 1024
POSITIONAL: dict[Any, dict[str, Any]] = {
    EventDispatcher: {"queue": None},
    EventDispatcher.dispatch_event: {"self": NEEDED, "event": NEEDED},
    EventDispatcher.close: {"self": NEEDED, "timeout_s": None},  # None: close_timeout_s, which is 10
    EventProcessor: {"dispatcher": NEEDED},
    EventProcessor.process: {"self": NEEDED, "user_event": NEEDED},
    EventProcessor.stop: {"self": NEEDED, "timeout_s": 10.0},
    AsyncEventDispatcher: {"dispatcher": NEEDED},
    AsyncEventDispatcher.dispatch_event: {"self": NEEDED, "event": NEEDED},
    OptimizelyFactory: {"sdk_key": None, "datafile": None},
    OptimizelyFactory.client: {"self": NEEDED, "event_dispatcher": None},
    MemoryQueue: {"events_max": 100_000, "bytes_max": 64 * MIB, "overflow": "refuse"},
    JournalQueue: {"path": NEEDED, "durability": "os", "bytes_max": 4096 * MIB, "overflow": "refuse"},
    RedisStreamsQueue: {"url": NEEDED},
}
BY_NAME: dict[Any, dict[str, Any]] = {
    EventDispatcher: {
        "endpoint": None, "transport": None, "retry": RetryPolicy(), "batch_events_max": 100,
        "batch_bytes_max": 1_000_000, "linger_s": 1.0, "in_flight_max": 300, "in_flight_bytes_max": 16 * MIB,
        "timeout_s": 10, "close_timeout_s": 10, "merge_log_events": False, "sender": "thread", "observers": (),
    },
    EventProcessor: {"endpoint": None, "notification_center": None},
    MemoryQueue: {"dead_bytes_max": 256 * MIB, "dead_age_max_s": 30 * 86_400},
    JournalQueue: {
        "dead_bytes_max": 256 * MIB, "dead_age_max_s": 30 * 86_400, "allow_network_fs": False, "group": None,
    },
    RedisStreamsQueue: {
        "name": "eventpost", "shards": 4, "bytes_max": 1024 * MIB, "overflow": "refuse", "block_timeout_s": 1.0,
        "lease_s": 60.0, "timeout_s": 1.0, "dead_bytes_max": 256 * MIB, "dead_age_max_s": 30 * 86_400,
        "durability": "os", "replicas": 0, "username": None, "password": None, "ca": None, "spill": None,
    },
}  # fmt: skip


def of_kind(what: Any, *kinds: Any) -> dict[str, Any]:
    """Return the parameters of these kinds with their defaults, in order."""
    parameters = inspect.signature(what).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in kinds}


@pytest.mark.parametrize("what", POSITIONAL, ids=lambda what: what.__qualname__)
def test_what_goes_by_position(what: Any) -> None:
    """In this order, with these defaults, and nothing else."""
    found = of_kind(what, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    assert list(found.items()) == list(POSITIONAL[what].items())


@pytest.mark.parametrize("what", BY_NAME, ids=lambda what: what.__qualname__)
def test_what_goes_by_name_only(what: Any) -> None:
    """With these defaults; others have defaults, too."""
    found = of_kind(what, inspect.Parameter.KEYWORD_ONLY)
    assert {name: found[name] for name in BY_NAME[what]} == BY_NAME[what]
    assert NEEDED not in found.values()


def test_nothing_else_is_exported() -> None:
    """The names that a user may rely on."""
    others = (AsyncEventDispatcher, OptimizelyFactory, LogEvent, RetryPolicy, Report)
    names = {what.__name__ for what in (*BY_NAME, *others)}
    assert set(eventpost.__all__) == {*names, "__version__"}
    assert names <= set(dir(eventpost))


def test_a_log_event_can_not_be_changed() -> None:
    """It has the page's four parts; POST and the JSON header are their defaults, a dict of its own each."""
    one, other = LogEvent("http://127.0.0.1/", {"a": 1}), LogEvent("http://127.0.0.1/", {"a": 1})
    assert (one.http_verb, one.headers) == ("POST", {"Content-Type": "application/json"})
    assert one == other
    assert one.headers is not other.headers
    for name in ("url", "params", "http_verb", "headers"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, "another")


def test_when_to_try_again_unless_told_otherwise() -> None:
    """First after half a second, doubling to a minute; an endpoint is asked after 1 s, doubling to 30."""
    policy = RetryPolicy()
    assert [policy.delay_s(attempts, 0.0) for attempts in (1, 2, 3, 8, 99)] == [0.5, 1.0, 2.0, 60.0, 60.0]
    assert (policy.breaker_first_s, policy.breaker_max_s) == (1.0, 30.0)


STATIC = sorted(name for name, value in vars(SdkFactory).items() if isinstance(value, staticmethod))


@pytest.mark.parametrize("name", STATIC)
def test_the_factorys_methods_take_what_the_sdks_take(name: str) -> None:
    """Changing the import is enough: the same names, in the same order, with the same defaults."""
    ours, sdks = (inspect.signature(getattr(factory, name)) for factory in (OptimizelyFactory, SdkFactory))
    wanted, found = ([(one.name, one.kind, one.default) for one in face.parameters.values()] for face in (sdks, ours))
    assert found == wanted
