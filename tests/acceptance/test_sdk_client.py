"""The real client of the official SDK delivers through us: datafile in, requests at the endpoint out."""

import datetime as dt
import decimal
import json
import logging
import threading
from importlib.resources import files
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from optimizely import entities, event_dispatcher, optimizely
from optimizely.config_manager import PollingConfigManager, StaticConfigManager
from optimizely.event.event_factory import EventFactory
from optimizely.event.event_processor import BatchEventProcessor
from optimizely.event.user_event import UserEvent
from optimizely.helpers.enums import NotificationTypes
from optimizely.notification_center import NotificationCenter
from optimizely.optimizely_factory import OptimizelyFactory as SdkFactory

import eventpost
from eventpost import EventDispatcher, EventProcessor, JournalQueue, MemoryQueue, OptimizelyFactory, RetryPolicy
from eventpost.testing import Collector, Reply
from support import missing

DATAFILE = files(eventpost).joinpath("demo_datafile.json").read_text()
SILENT = logging.Logger("silent")  # noqa: LOG001 - hangs in no tree
SILENT.disabled = True


@pytest.fixture
def collector():
    """Give a fake endpoint."""
    with Collector() as running:
        yield running


class Twin:
    """Passes user events on to our processor and keeps them, to ask the SDK's encoder about them."""

    def __init__(self, processor):
        self.processor = processor
        self.user_events: list[UserEvent] = []

    def process(self, user_event):
        """Keep and pass on."""
        self.user_events.append(user_event)
        self.processor.process(user_event)

    def stop(self):
        """Pass on."""
        self.processor.stop()


def use(client, users=12):
    """Make every kind of event."""
    for number in range(users):
        attributes = {"plan": ["gold", "free"][number % 2], "age": number * 5, "returning": number % 3 == 0}
        user = client.create_user_context(f"user-{number}", attributes)
        user.decide_all()
        user.track_event(
            "purchase", {"revenue": number, "value": number / 3, "note": "café", "nested": {"value": None}}
        )
        client.activate("checkout_test", f"user-{number}", attributes)
        client.track("signup", f"user-{number}", attributes)


@pytest.mark.parametrize("region", ["US", "EU"])
def test_what_arrives_is_what_the_sdk_would_have_sent(collector, region):
    """Impressions of experiments, rollouts and holdouts, and conversions: visitor for visitor, in order, in batches."""
    datafile = json.dumps({**json.loads(DATAFILE), "region": region})
    with EventDispatcher(endpoint=collector.url, linger_s=0.05) as dispatcher:
        twin = Twin(EventProcessor(dispatcher))
        client = optimizely.Optimizely(datafile, event_processor=twin)
        use(client, 60)
        client.close()
        report = dispatcher.stats()
    expected = json.loads(json.dumps(EventFactory.create_log_event(twin.user_events, SILENT).params))
    bodies = [json.loads(body) for body in collector.bodies]
    visitors = sorted(repr(visitor) for body in bodies for visitor in body["visitors"])
    assert visitors == sorted(repr(visitor) for visitor in expected["visitors"])
    expected.pop("visitors")
    assert all({**body, "visitors": None} == {**expected, "visitors": None} for body in bodies)
    assert report.accepted == report.delivered == len(twin.user_events) > 300
    assert report.closes
    assert len(bodies) < len(twin.user_events) / 10
    kinds = {type(event.experiment).__name__ for event in twin.user_events if hasattr(event, "experiment")}
    assert kinds == {"Experiment", "Holdout"} if hasattr(entities, "Holdout") else {"Experiment"}


def test_the_seeds_way_a_dispatcher_behind_the_sdks_own_processor(collector):
    """``Optimizely(datafile, event_dispatcher=dispatcher)``: every LogEvent arrives byte for byte as its params."""
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        client = optimizely.Optimizely(DATAFILE, event_dispatcher=dispatcher)
        heard = []
        client.notification_center.add_notification_listener(NotificationTypes.LOG_EVENT, heard.append)
        use(client, 3)
        client.close()
        report = dispatcher.close()
    assert report.delivered == len(heard) == len(collector.bodies) > 0
    assert sorted(map(repr, (json.loads(body) for body in collector.bodies))) == sorted(
        repr(json.loads(json.dumps(log_event.params))) for log_event in heard
    )


def test_the_client_never_waits_for_the_endpoint():
    """Every call has returned before the endpoint answers for the first time; then all of it is delivered."""
    answering = threading.Event()

    def answer(_):
        return Reply() if answering.is_set() else Reply(503)

    quick = RetryPolicy(first_s=0.01, max_s=0.05, breaker_first_s=0.01, breaker_max_s=0.05)
    with Collector(answer) as collector, EventDispatcher(endpoint=collector.url, retry=quick) as dispatcher:
        client = optimizely.Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
        use(client, 5)
        assert dispatcher.dispatch_event(eventpost.LogEvent(collector.url, {}))
        before = dispatcher.stats()
        answering.set()
        client.close()
        report = dispatcher.flush()
    assert (before.delivered, before.queued + before.in_flight) == (0, before.accepted)
    assert report.delivered == report.accepted == before.accepted > 20


def test_a_listener_that_changes_the_payload_afterwards_changes_nothing(collector):
    """The SDK hands its listeners the object that it then sends; what we took is a snapshot."""
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        log_event = EventFactory.create_log_event(_conversion_of(DATAFILE), SILENT)
        before = json.loads(json.dumps(log_event.params))
        assert dispatcher.dispatch_event(log_event)
        log_event.params.clear()
        dispatcher.flush()
    assert [json.loads(body) for body in collector.bodies] == [before]


def _conversion_of(datafile):
    caught = []
    client = optimizely.Optimizely(
        datafile, event_processor=type("Catch", (), {"process": staticmethod(caught.append)})
    )
    client.track("purchase", "user", {"plan": "gold"}, {"value": 5})
    client.close()
    return caught[0]


def test_ours_is_not_replaced_by_the_sdk():
    """The SDK writes ``event_processor or ...``: neither of ours may be falsy, however empty."""
    for cls in (EventDispatcher, EventProcessor):
        assert not hasattr(cls, "__len__")
        assert not hasattr(cls, "__bool__")
    with EventDispatcher(endpoint="http://127.0.0.1:9/") as dispatcher:
        processor = EventProcessor(dispatcher)
        client = optimizely.Optimizely(DATAFILE, event_dispatcher=dispatcher, event_processor=processor)
        assert client.is_valid
        assert client.event_processor is processor
        assert client.event_dispatcher is dispatcher
        client.close()


class Mine:
    """A dispatcher of one's own, from scratch."""

    def __init__(self, answers=()):
        self.answers = list(answers)
        self.log_events = []

    def dispatch_event(self, event):
        """Keep the event; answer as the script says, then True."""
        self.log_events.append(event)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_dispatcher_of_ones_own_gets_our_queue_batches_and_retries():
    """False and an exception mean later; the same batch comes again, its params a dict, until it is taken."""
    mine = Mine([False, OSError("down")])
    quick = RetryPolicy(first_s=0.01, max_s=0.02, breaker_first_s=0.01, breaker_max_s=0.02)
    dispatcher = EventDispatcher(transport=mine, retry=quick, linger_s=0.05)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=dispatcher)
    for number in range(20):
        client.track("purchase", f"user-{number}")
    report = dispatcher.close(timeout_s=10)
    client.close()
    assert report.delivered == report.accepted == 20
    assert len(mine.log_events) >= 3
    assert all(type(log_event.params) is dict and log_event.http_verb == "POST" for log_event in mine.log_events)
    visitors = {visitor["visitor_id"] for log_event in mine.log_events for visitor in log_event.params["visitors"]}
    assert visitors == {f"user-{number}" for number in range(20)}


def test_the_seeds_example_a_dispatcher_handed_to_the_factory():
    """``OptimizelyFactory(...).client(event_dispatcher=MyDispatcher())``: closing the client delivers everything."""
    mine = Mine()
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=mine)
    assert type(client) is optimizely.Optimizely
    use(client, 5)
    client.close()
    report = client.event_dispatcher.stats()
    assert report.delivered == report.accepted > 20
    assert (
        client.event_dispatcher.dispatch_event(mine.log_events[0]) is False
    )  # closed with the client: it was made here
    assert report.closes


def test_a_processor_around_ones_own_dispatcher_closes_what_it_made():
    """``EventProcessor(mine)`` makes the EventDispatcher, and stop() closes it, idempotently."""
    mine = Mine([None])
    processor = EventProcessor(mine)
    client = optimizely.Optimizely(DATAFILE, event_processor=processor)
    client.track("purchase", "user")
    client.close()
    assert processor.stop(timeout_s=1).delivered == 1
    client.track("purchase", "user")
    assert processor.dispatcher.stats().refused == {"closed": 1}


def test_the_sdks_own_dispatcher_as_a_class(collector):
    """It is static and returns None whatever happens: it works, and counts as delivered."""
    processor = EventProcessor(event_dispatcher.EventDispatcher, endpoint=collector.url)
    client = optimizely.Optimizely(DATAFILE, event_processor=processor)
    client.track("purchase", "user")
    client.close()
    assert collector.requests_total == 1
    assert processor.dispatcher.stats().delivered == 1


@pytest.mark.parametrize("wrong", [None, object(), "dispatcher", EventDispatcher, Mine])
def test_what_is_no_dispatcher_is_a_type_error(wrong):
    """Said at once, not at the first event."""
    with pytest.raises(TypeError):
        EventProcessor(wrong)


def test_an_endpoint_that_is_no_url_is_a_value_error():
    """Said at once, not at the first event."""
    with EventDispatcher(endpoint="http://127.0.0.1:9/") as dispatcher, pytest.raises(ValueError, match="http"):
        EventProcessor(dispatcher, endpoint="localhost:8080")


def test_the_dispatchers_endpoint_wins_over_the_processors(collector):
    """So a relay can be set in one place."""
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        processor = EventProcessor(dispatcher, endpoint="http://127.0.0.1:9/nowhere")
        assert processor.process(_conversion_of(DATAFILE))
        assert processor.stop().delivered == 1
    with EventDispatcher() as dispatcher:
        processor = EventProcessor(dispatcher, endpoint=collector.url)
        assert processor.process(_conversion_of(DATAFILE))
        assert processor.stop().delivered == 1


def test_one_bad_value_costs_one_event(collector):
    """Decimals, times, sets, bytes, NaN, huge integers and loops in tags are refused one by one; the rest arrives."""
    loop: dict = {}
    loop["loop"] = loop
    bad = [
        {1, 2}, b"x", float("nan"), float("inf"), loop, object(), 10**5000, 1j, decimal.Decimal(1),
        dt.datetime.now(dt.timezone.utc), dt.date(2026, 1, 1),
    ]  # fmt: skip
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        client = optimizely.Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
        for number, value in enumerate(bad):
            client.track("purchase", f"good-{number}", event_tags={"note": "\ud800", "n": 2**70})
            client.track("purchase", f"bad-{number}", event_tags={"tag": value})
        client.close()
        report = dispatcher.stats()
    assert report.refused == {"unencodable": len(bad)}
    assert report.delivered == len(bad)
    assert {visitor["visitor_id"] for body in collector.bodies for visitor in json.loads(body)["visitors"]} == {
        f"good-{number}" for number in range(len(bad))
    }


@pytest.mark.parametrize("where", ["tag", "attribute", "revenue", "value"])
def test_a_numpy_number_costs_at_most_its_event(collector, where):
    """What is a float to Python (float64) arrives as ``json.dumps`` writes it; any other is refused; the rest arrives.

    An attribute of a type that the SDK does not take is left out by the SDK itself, and its event arrives.
    """
    if find_spec("numpy") is None:
        missing("numpy")
    import numpy as np

    numbers = [
        np.float64(1.5), np.float32(0.1), np.float16(2), np.int64(3), np.uint8(4), np.int32(-5), np.bool_(True),
        np.longdouble(7), np.complex128(1j), np.array([1, 2]), np.datetime64("2024-01-01"), np.float64("nan"),
        np.float64("inf"), np.str_("text"),
    ]  # fmt: skip
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        twin = Twin(EventProcessor(dispatcher))
        client = optimizely.Optimizely(DATAFILE, event_processor=twin)
        for number, value in enumerate(numbers):
            attributes = {"age": value} if where == "attribute" else {}
            client.track("purchase", f"good-{number}", event_tags={"n": number})
            client.track("purchase", f"odd-{number}", attributes, {} if where == "attribute" else {where: value})
        client.close()
        report = dispatcher.stats()
    sent = {visitor["visitor_id"]: visitor for body in collector.bodies for visitor in json.loads(body)["visitors"]}
    expected = {}
    for user_event in twin.user_events:
        try:
            params = EventFactory.create_log_event(user_event, SILENT).params
            expected[user_event.user_id] = json.loads(json.dumps(params, allow_nan=False))["visitors"][0]
        except (AttributeError, TypeError, ValueError):  # the SDK's encoder asks a number for its __dict__
            assert user_event.user_id.startswith("odd-")
    assert sent == expected
    assert {f"good-{number}" for number in range(len(numbers))} | {"odd-0"} <= set(sent)
    assert report.offered == len(twin.user_events) >= 2 * len(numbers) - 3
    assert dict(report.refused) == ({"unencodable": report.offered - len(sent)} if report.offered > len(sent) else {})
    assert report.delivered == len(sent)
    assert where == "attribute" or len(sent) < len(twin.user_events)


def test_what_is_no_user_event_is_refused_and_raises_nothing():
    """Counted as invalid."""
    with EventDispatcher(endpoint="http://127.0.0.1:9/") as dispatcher:
        processor = EventProcessor(dispatcher)
        assert processor.process(None) is False
        assert processor.process({"type": "conversion"}) is False
        unknown = _conversion_of(DATAFILE)
        unknown.event = None
        assert processor.process(unknown) is False
        assert dispatcher.stats().refused == {"invalid": 3}


def test_log_event_listeners_hear_the_batches(collector):
    """Listeners of the client's own notification center hear each request once, with the SDK's LogEvent."""
    dispatcher = EventDispatcher(endpoint=collector.url, linger_s=0.05)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=dispatcher)
    second = EventProcessor(dispatcher, notification_center=client.notification_center)
    heard = []
    client.notification_center.add_notification_listener(NotificationTypes.LOG_EVENT, heard.append)
    use(client, 10)
    dispatcher.flush()
    assert len(heard) == collector.requests_total > 0
    assert sorted(repr(log_event.params) for log_event in heard) == sorted(
        repr(json.loads(body)) for body in collector.bodies
    )
    assert {type(log_event).__module__ for log_event in heard} == {"optimizely.event.log_event"}
    assert dispatcher.dispatch_event(heard[0])
    dispatcher.flush()
    assert len(heard) == collector.requests_total - 1  # whoever calls dispatch_event has told its listeners
    client.close()
    second.stop()
    assert dispatcher.on_request == []
    dispatcher.close()


def test_a_listener_that_changes_what_it_hears_changes_nothing_that_is_sent(collector):
    """It is handed a copy, before the request goes out."""
    dispatcher = EventDispatcher(endpoint=collector.url)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=dispatcher)
    emptied = []

    def empty(log_event):
        emptied.extend(visitor["visitor_id"] for visitor in log_event.params["visitors"])
        for part in (log_event.params, log_event.headers):
            part.clear()
        log_event.url = "http://127.0.0.1:9/"

    client.notification_center.add_notification_listener(NotificationTypes.LOG_EVENT, empty)
    client.track("purchase", "user")
    client.close()
    assert dispatcher.close().delivered == 1
    (request,) = collector.requests
    assert [visitor["visitor_id"] for visitor in json.loads(request.body)["visitors"]] == emptied == ["user"]
    assert request.headers["content-type"] == "application/json"


def test_a_repeated_request_is_announced_once(collector):
    """Retries are not announced again."""
    collector.script([Reply(status=503)])
    quick = RetryPolicy(first_s=0.01, max_s=0.02)
    with EventDispatcher(endpoint=collector.url, retry=quick, linger_s=0) as dispatcher:
        center = NotificationCenter()
        heard = []
        center.add_notification_listener(NotificationTypes.LOG_EVENT, heard.append)
        EventProcessor(dispatcher, notification_center=center).process(_conversion_of(DATAFILE))
        assert dispatcher.flush().delivered == 1
    assert collector.requests_total == 2
    assert len(heard) == 1


def test_nothing_is_parsed_when_nobody_listens(collector, monkeypatch):
    """The bodies stay bytes."""
    parsed: list = []
    user_event = _conversion_of(DATAFILE)
    monkeypatch.setattr("eventpost.doors.processor.LogEvent", lambda *_: parsed.append(1))
    monkeypatch.setattr("eventpost.doors.processor.json", SimpleNamespace(loads=parsed.append))
    with EventDispatcher(endpoint=collector.url) as dispatcher:
        processor = EventProcessor(dispatcher, notification_center=NotificationCenter())
        assert processor.process(user_event)
        assert processor.stop().delivered == 1
    assert parsed == []


def test_a_journal_keeps_what_the_client_said_until_the_endpoint_is_back(collector, tmp_path):
    """Stored by one dispatcher while nothing answers, delivered by the next one."""
    nowhere = "http://127.0.0.1:9/v1/events"
    first = EventDispatcher(JournalQueue(tmp_path / "journal"), endpoint=nowhere)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=first)
    for number in range(10):
        client.track("purchase", f"user-{number}")
    assert first.close(timeout_s=0.1).queued == 10
    client.close()
    second = EventDispatcher(JournalQueue(tmp_path / "journal"), transport=(mine := Mine()))
    second.flush(timeout_s=1)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=second)
    client.track("purchase", "user-10")
    client.close()
    second.close()
    visitors = [visitor["visitor_id"] for log_event in mine.log_events for visitor in log_event.params["visitors"]]
    assert sorted(visitors) == sorted(f"user-{number}" for number in range(11))


# -- the factory


def test_the_sdks_own_factory_sends_nothing_and_ours_does(collector, monkeypatch):
    """Changing the import is enough: default_instance, custom_instance and the one with a config manager."""
    monkeypatch.setenv("EVENTPOST_ENDPOINT", collector.url)
    manager = StaticConfigManager(datafile=DATAFILE)
    silent = SdkFactory.custom_instance("key", config_manager=manager, event_dispatcher=(never := Mine()))
    silent.track("purchase", "user")
    assert not never.log_events
    clients = [
        OptimizelyFactory.custom_instance("key", config_manager=manager),
        OptimizelyFactory.default_instance_with_config_manager(manager),
        OptimizelyFactory(config_manager=manager).client(),
    ]
    for client in clients:
        assert type(client) is optimizely.Optimizely
        client.track("purchase", "user")
        client.close()
        assert client.event_dispatcher.stats().delivered == 1
        assert client.event_dispatcher.dispatch_event(eventpost.LogEvent(collector.url, {})) is False  # closed with it
    assert len(collector.uuids) == len(clients)


@pytest.fixture
def cdn(monkeypatch):
    """Give a place that serves the datafile for any key, and is asked instead of the SDK's own."""
    with Collector(lambda _: Reply(status=200, body=DATAFILE.encode())) as up:
        monkeypatch.setattr(PollingConfigManager, "DATAFILE_URL_TEMPLATE", up.origin + "/datafiles/{sdk_key}.json")
        yield up


@pytest.mark.parametrize(
    "make",
    [
        lambda: OptimizelyFactory.default_instance("EventpostDemo", DATAFILE),
        lambda: OptimizelyFactory.custom_instance("EventpostDemo"),
        lambda: OptimizelyFactory(sdk_key="EventpostDemo", datafile=DATAFILE).client(),
        lambda: OptimizelyFactory("EventpostDemo").client(),
    ],
    ids=["default_instance", "custom_instance", "client", "client without a datafile"],
)
def test_with_an_sdk_key_the_sdk_polls_the_datafile(cdn, collector, monkeypatch, make):
    """As it does by itself, with or without a datafile to start with; the events come through."""
    monkeypatch.setenv("EVENTPOST_ENDPOINT", collector.url)
    client = make()
    assert client.get_optimizely_config() is not None  # it waits for one
    client.track("purchase", "user")
    client.close()
    assert len(collector.uuids) == 1
    assert cdn.wait_requests(1)
    assert {request.path for request in cdn.requests} == {"/datafiles/EventpostDemo.json"}


def test_the_seeds_client_polls_its_datafile_by_its_sdk_key(cdn):
    """``OptimizelyFactory(sdk_key=...).client(event_dispatcher=MyDispatcher())``: nothing else is given."""
    client = OptimizelyFactory(sdk_key="SDK_KEY_HERE").client(event_dispatcher=(mine := Mine()))
    client.track("purchase", "user")  # the SDK waits here for its first datafile
    client.close()
    assert {request.path for request in cdn.requests} == {"/datafiles/SDK_KEY_HERE.json"}
    assert [log_event.params["visitors"][0]["visitor_id"] for log_event in mine.log_events] == ["user"]


def test_the_setters_set_the_batches(monkeypatch):
    """set_batch_size and set_flush_interval reach the dispatchers that are made here; useless values do not."""
    monkeypatch.setattr(SdkFactory, "max_event_batch_size", None)
    monkeypatch.setattr(SdkFactory, "max_event_flush_interval", None)
    mine = Mine()
    OptimizelyFactory.set_batch_size(4)
    OptimizelyFactory.set_flush_interval(60)
    client = OptimizelyFactory(datafile=DATAFILE).client(mine)
    for number in range(8):
        client.track("purchase", f"user-{number}")
    client.close()
    sizes = [len(log_event.params["visitors"]) for log_event in mine.log_events]
    assert (max(sizes), sum(sizes)) == (4, 8)  # close() ends the wait for company, wherever a batch stands then
    OptimizelyFactory.set_batch_size(-1)
    OptimizelyFactory.set_flush_interval(float("nan"))
    OptimizelyFactory(datafile=DATAFILE).client(mine).close()


def test_a_flush_interval_that_looks_like_milliseconds_is_said(caplog, monkeypatch):
    """The SDK documents milliseconds and takes seconds."""
    monkeypatch.setattr(SdkFactory, "max_event_flush_interval", None)
    assert OptimizelyFactory.set_flush_interval(30_000) == 30_000
    assert "second" in caplog.text


def test_options_that_exclude_each_other_are_a_type_error():
    """A client calls its processor only, so a dispatcher beside one would be ignored."""
    mine = Mine()
    with EventDispatcher(transport=mine) as dispatcher:
        processor = EventProcessor(dispatcher)
        with pytest.raises(TypeError, match="exclude"):
            OptimizelyFactory(datafile=DATAFILE, event_processor=processor, event_dispatcher=mine)
        with pytest.raises(TypeError, match="exclude"):
            OptimizelyFactory(datafile=DATAFILE, event_processor=processor).client(event_dispatcher=mine)
        with pytest.raises(TypeError, match="batch_events_max"):
            OptimizelyFactory(datafile=DATAFILE, event_processor_options={"batch_size": 5})
        with pytest.raises(TypeError, match="nonsense"):
            OptimizelyFactory(datafile=DATAFILE, nonsense=1).client(dispatcher)
        client = OptimizelyFactory(datafile=DATAFILE, event_processor=processor).client()
        assert client.event_processor is processor
        client.close()
        client = OptimizelyFactory(datafile=DATAFILE, event_dispatcher=dispatcher).client()
        assert client.event_dispatcher is dispatcher
        client.close()
        assert dispatcher.dispatch_event(eventpost.LogEvent("http://127.0.0.1:9/", {}))  # not closed with the client


def test_options_go_to_the_client_unchanged():
    """Also those that we use ourselves."""
    center = NotificationCenter()
    options = {"notification_center": center, "default_decide_options": ["DISABLE_DECISION_EVENT"]}
    client = OptimizelyFactory(datafile=DATAFILE, **options).client(Mine())
    assert client.notification_center is center
    assert client.default_decide_options == ["DISABLE_DECISION_EVENT"]
    client.close()


def test_clients_that_share_a_dispatcher_do_not_close_it_for_each_other(collector):
    """The first client's close() flushes; the second one goes on."""
    with EventDispatcher(MemoryQueue(), endpoint=collector.url) as dispatcher:
        one, two = (OptimizelyFactory(datafile=DATAFILE).client(dispatcher) for _ in range(2))
        one.track("purchase", "user-1")
        one.close()
        assert collector.requests_total == 1
        two.track("purchase", "user-2")
        two.close()
    assert len(collector.uuids) == 2


def test_beside_the_sdks_batch_processor_with_merging(collector):
    """``merge_log_events=True`` lets the LogEvents of the SDK's own processor share requests, no visitor changed."""
    with EventDispatcher(endpoint=collector.url, merge_log_events=True, linger_s=0.5) as dispatcher:
        heard = []
        center = NotificationCenter()
        center.add_notification_listener(NotificationTypes.LOG_EVENT, heard.append)
        processor = BatchEventProcessor(dispatcher, batch_size=5, notification_center=center, start_on_init=True)
        client = optimizely.Optimizely(DATAFILE, event_processor=processor)
        for number in range(20):
            client.track("purchase", f"user-{number}")
        client.close()
        dispatcher.flush()
        report = dispatcher.stats()
    assert report.delivered == len(heard) == 4
    sent = [visitor for log_event in heard for visitor in log_event.params["visitors"]]
    arrived = [visitor for body in collector.bodies for visitor in json.loads(body)["visitors"]]
    assert sorted(map(repr, arrived)) == sorted(map(repr, sent))
    assert collector.requests_total < 4
