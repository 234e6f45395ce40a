"""The official SDKs hand their events to the relay, with the very code of docs/sdks, and nothing is lost on the way.

Each test runs the real SDK of a language in a process of its own, through a hop that records every byte, into a relay
process, and from there into a collector.  What the SDK said that it sends (its own notifications) is compared with what
arrived, uuid by uuid; what the relay answered 204 to, byte by byte.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from eventpost.testing import Collector, Reply
from eventpost.testing.collector import CollectedRequest, uuids_in
from interop.hop import Hop
from interop.relays import Relay
from interop.sdks import BUILDS, Program, Sdk

pytestmark = pytest.mark.interop

VISITORS = 12
ARRIVE_TIMEOUT_S = 40.0
POLL_S = 0.02
DOWN_S = 1.5
SENDS_AGAIN = {"go": {200, 400, 503}, "javascript": {200, 400, 503}, "java": {503}, "python": {503}}


def wait_until(condition: Callable[[], bool], timeout_s: float = ARRIVE_TIMEOUT_S) -> bool:
    """Wait until ``condition()`` holds; False: not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sdk]:
    """Give the SDKs, each built once, or found once that it can't be."""
    sdks: dict[str, Sdk] = {}
    refusals: dict[str, BaseException] = {}

    def build(language: str) -> Sdk:
        if language in refusals:
            raise refusals[language]
        if language not in sdks:
            try:
                sdks[language] = Sdk(language, tmp_path_factory.mktemp(language))
            except (AssertionError, pytest.skip.Exception, pytest.fail.Exception) as error:
                refusals[language] = error
                raise
        return sdks[language]

    return build


@pytest.fixture(params=BUILDS)
def sdk(request: pytest.FixtureRequest, built: Callable[[str], Sdk]) -> Sdk:
    """Give one SDK after the other."""
    return built(request.param)


class Stage:
    """A collector, a relay in front of it, and a hop in front of that."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.collectors = [Collector().start()]
        self.port = self.collectors[0].port
        self.relay = Relay(folder, self.collectors[0].url, *options)
        self.hop = Hop()

    def endpoint_down(self) -> None:
        """Let the endpoint refuse connections."""
        self.collectors[-1].close()

    def endpoint_up(self) -> None:
        """Let it listen again at the same address."""
        self.collectors.append(Collector(port=self.port).start())

    def relay_down(self) -> None:
        """Kill the relay; its address refuses connections."""
        self.hop.down()
        self.relay.kill()

    def relay_up(self) -> None:
        """Start it again, on its journal and at its address."""
        self.relay.start()
        self.hop.up(self.relay.port)

    @property
    def arrived(self) -> Counter[str]:
        """How often each event was answered 2xx by the endpoint."""
        return sum((Counter(one.uuids) for one in self.collectors), Counter[str]())

    @property
    def accepted(self) -> set[str]:
        """The events that the relay has answered 204 to."""
        return {uuid for one in self.hop.exchanges if one.status == 204 for uuid in uuids_in(one.body)}

    def said(self) -> str:
        """Return what there is to say where something did not arrive."""
        answers = Counter(one.status for one in self.hop.exchanges)
        return f"arrived: {len(self.arrived)}, the relay's answers: {dict(answers)}; it said: {self.relay.log()}"

    def __enter__(self) -> Stage:
        try:
            self.relay_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hop.down()
        self.relay.kill()
        for one in self.collectors:
            one.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage without a token."""
    with Stage(tmp_path) as made:
        yield made


def check_that_all_arrived(stage: Stage, program: Program, visitors: int) -> None:
    """Wait for it, end everything in order, then compare: uuids, bytes, texts."""
    assert wait_until(lambda: len(stage.arrived) == 2 * visitors), stage.said()
    program.close()
    stage.relay.stop()
    assert len(program.uuids) == 2 * visitors
    assert set(stage.arrived) == program.uuids == stage.accepted
    received = [request for one in stage.collectors for request in one.requests]
    assert {one.body for one in received} == {one.body for one in stage.hop.exchanges if one.status == 204}
    batches = [request.json() for request in received]
    ids = {visitor["visitor_id"] for batch in batches for visitor in batch["visitors"]}
    assert ids == {f"visitor-é-{number}" for number in range(visitors)}
    seen = [event for batch in batches for visitor in batch["visitors"] for event in visitor["snapshots"][0]["events"]]
    assert {event["tags"]["note"] for event in seen if event["key"] == "purchase"} == {"café ☕ 北京"}
    assert sum(event["key"] == "campaign_activated" for event in seen) >= visitors


def test_every_decision_and_conversion_arrives(sdk: Sdk, tmp_path: Path) -> None:
    """Through a relay that asks for a token; the same bytes, once each, since nothing went wrong."""
    token = "evp_" + "t" * 43
    digest = "sha256:" + sha256(token.encode()).hexdigest()
    with Stage(tmp_path, "--token", digest) as stage, sdk.start(stage.hop.url, {"RELAY_TOKEN": token}) as program:
        program.use(0, VISITORS)
        check_that_all_arrived(stage, program, VISITORS)
        assert set(stage.arrived.values()) == {1}
        assert {one.status for one in stage.hop.exchanges} == {204}
        assert {one.header("Content-Type") for one in stage.hop.exchanges} == {"application/json"}
        assert {one.header("Authorization") for one in stage.hop.exchanges} == {f"Bearer {token}"}


def test_the_endpoint_goes_down_and_comes_back(sdk: Sdk, stage: Stage) -> None:
    """The SDK notices nothing: the relay answers 204, keeps, and delivers later."""
    with sdk.start(stage.hop.url) as program:
        program.use(0, 4)
        assert wait_until(lambda: len(stage.arrived) == 8), stage.said()
        stage.endpoint_down()
        program.use(4, 4)
        assert wait_until(lambda: len(stage.accepted) == 16), stage.said()
        assert len(stage.arrived) == 8
        stage.endpoint_up()
        program.use(8, 4)
        check_that_all_arrived(stage, program, VISITORS)
    assert {one.status for one in stage.hop.exchanges} == {204}


def test_the_relay_is_killed_and_comes_back(sdk: Sdk, stage: Stage) -> None:
    """What it had answered 204 to lies in its journal; what it could not take, the page's dispatcher keeps trying."""
    with sdk.start(stage.hop.url) as program:
        stage.endpoint_down()
        program.use(0, 4)
        assert wait_until(lambda: len(stage.accepted) == 8), stage.said()
        stage.relay_down()
        program.use(4, 4)
        assert wait_until(lambda: len(program.uuids) == 16)  # in the hands of the dispatcher
        time.sleep(DOWN_S)
        assert len(stage.accepted) == 8
        stage.endpoint_up()
        stage.relay_up()
        program.use(8, 4)
        check_that_all_arrived(stage, program, VISITORS)


@pytest.mark.parametrize("status", [200, 400, 503])
def test_what_is_not_answered_204_is_sent_again_where_the_page_says_so(sdk: Sdk, status: int) -> None:
    """Only 204 counts; whether another answer is for good is in the table of each page."""
    statuses = [status]

    def answer(_: CollectedRequest) -> Reply:
        return Reply(statuses[0])

    with Collector(answer) as collector, sdk.start(collector.url) as program:

        def seen() -> Counter[str]:
            return sum((Counter(uuids_in(body)) for body in collector.bodies), Counter[str]())

        program.use(0, 1)
        assert wait_until(lambda: len(seen()) == 2)
        if status in SENDS_AGAIN[sdk.language]:
            assert wait_until(lambda: max(seen().values()) > 1)
            statuses[0] = 204
            program.use(1, 1)
            assert wait_until(lambda: len([request for request in collector.requests if request.uuids()]) > 2)
        else:
            time.sleep(DOWN_S)
            assert set(seen().values()) == {1}
            statuses[0] = 204
        program.close()


def test_java_own_handler_breaks_texts(built: Callable[[str], Sdk], stage: Stage) -> None:
    """Why the page brings a handler: the SDK's own sends ISO-8859-1, which is no JSON; the relay takes none of it."""
    with built("java").start(stage.hop.url, {"SDKS_OWN_HANDLER": "1"}) as program:
        program.use(0, 1)
        assert wait_until(lambda: bool(stage.hop.exchanges) and stage.hop.exchanges[0].status is not None)
        program.close()
    sent = stage.hop.exchanges[0]
    assert "caf\xe9 ? ??".encode("latin-1") in sent.body
    assert sent.status == 400
    assert not stage.arrived
