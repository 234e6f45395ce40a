"""The page over a real relay, in a real Chromium: what an engineer on call sees and does."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventpost.queues.journal import inspect
from page_support import Endpoint, Visit, chromium, conversion, impression, post, uuid_of, wait_for
from relay_support import Relay


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return one browser for all tests."""
    with chromium() as found:
        yield found


class House(NamedTuple):
    """A relay with its endpoint and its journal."""

    relay: Relay
    endpoint: Endpoint
    journal: Path

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.relay.port}"

    def post(self, *bodies: bytes) -> None:
        """Hand events to the relay."""
        post(self.relay.port, *bodies)


class Houses:
    """A house of its own for each test: the next one is made while a test runs, and nobody waits for one's end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self._pool = ThreadPoolExecutor(2)
        self._ends: list[Future[None]] = []
        self._next = self._pool.submit(self._make)

    def _make(self) -> House:
        journal = self._folder / f"j{next(self._numbers)}"
        endpoint = Endpoint().__enter__()
        return House(Relay(journal, "--workers", "2", endpoint=endpoint.collector.url), endpoint, journal)

    def take(self) -> House:
        """Return a new one."""
        house, self._next = self._next.result(), self._pool.submit(self._make)
        return house

    def give_back(self, house: House) -> None:
        """Have one end in order."""
        self._ends.append(self._pool.submit(self._end, house))

    @staticmethod
    def _end(house: House) -> None:
        try:
            with house.relay:
                pass
        finally:
            house.endpoint.__exit__(None, None, None)

    def close(self) -> None:
        """Wait until all have ended; what went wrong is raised."""
        self.give_back(self._next.result())
        for end in self._ends:
            end.result()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def houses(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Houses]:
    """Return where houses come from."""
    made = Houses(tmp_path_factory.mktemp("houses"))
    yield made
    made.close()


@pytest.fixture
def house(houses: Houses) -> Iterator[House]:
    """Return a relay with two workers."""
    found = houses.take()
    yield found
    houses.give_back(found)


@pytest.fixture(scope="module")
def lived_in(houses: Houses) -> Iterator[House]:
    """Return one with a dead letter, and an event with long names, for tests that only look."""
    found = houses.take()
    found.endpoint.bad = {b"broken"}
    found.post(conversion(1, "broken_1"), conversion(10_001, "fine"))
    wait_for(lambda: len(letters(found)) == 1)
    found.post(impression(5, "a_flag_with_a_rather_long_name_" * 3, "and_a_variation_with_a_long_one"))
    yield found
    houses.give_back(found)


@pytest.fixture
def visit(browser: Any, house: House) -> Iterator[Visit]:
    """Return its page, open."""
    with Visit(browser, house.url) as made:
        made.go()
        yield made


def letters(house: House) -> list[Any]:
    """Return the journal's dead letters."""
    return list(inspect.dead_letters(house.journal))


def with_dead(house: House, visit: Visit, *numbers: int) -> None:
    """Have the endpoint refuse events, and wait until the page shows them."""
    house.endpoint.bad = {b"broken"}
    for number in numbers:
        house.post(conversion(number, f"broken_{number}"), conversion(10_000 + number, "fine"))
        wait_for(lambda number=number: uuid_of(10_000 + number).encode() in b"".join(house.endpoint.bodies))
    wait_for(lambda: len(letters(house)) == len(numbers))
    visit.wait_for_number("dead", len(numbers))
    visit.wait_for_rows("#dead-rows", len(numbers))


def test_it_answers_the_question_first(house: House, visit: Visit) -> None:
    """Nothing is lost, the sum closes, and every table without anything in it says so."""
    visit.wait_for_text("#verdict", "Nothing is being lost")
    visit.wait_for_text("#closes", "The sum closes")
    visit.wait_for_text("#endpoint-list", "No endpoint yet")
    visit.wait_for_text("#events-empty", "No events yet")
    visit.wait_for_text("#dead-empty", "No dead letters")
    visit.wait_for_text("#happened-list", "Nothing has happened")
    visit.wait_for_text("#workers", "2 workers · no restarts")
    visit.wait_for_text("#refused", "0 refused")
    assert visit.number("accepted") == 0
    assert visit.page.title().startswith("✓")
    headers = visit.go().headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"


def test_it_lives_without_a_reload(house: House, visit: Visit) -> None:
    """What comes in while the page is open shows up: in the sum, the tail, the charts, the endpoint."""
    visit.wait_for_number("accepted", 0)
    visit.page.evaluate("window.stillHere = true")
    house.post(conversion(1, "bought"), impression(2, "checkout", "on"))
    visit.wait_for_number("accepted", 2)
    visit.wait_for_number("delivered", 2)
    visit.wait_for_rows("#events-rows", 2)
    rows = visit.text("#events-rows")
    for text in ("bought", "conversion", "checkout", "→ on", "impression", "77"):
        assert text in rows
    visit.page.locator("#events-rows .chip", has_text="Delivered").nth(1).wait_for()
    visit.wait_for_text(".endpoint", "Takes events")
    assert house.endpoint.collector.url in visit.text(".endpoint h3")
    visit.wait("document.querySelectorAll('#chart-rate .line').length === 2")
    assert "Throughput: delivered" in visit.page.locator("#chart-rate svg").get_attribute("aria-label")
    assert visit.page.evaluate("window.stillHere")


def test_the_tail_is_filtered(house: House, visit: Visit) -> None:
    """By text, kind and state, also for what comes later; where nothing is like that, it is said."""
    house.post(conversion(1, "bought"), conversion(2, "sold", project="88"), impression(3, "checkout", "on"))
    visit.wait_for_rows("#events-rows", 3)
    visit.page.fill("#events-text", "SOLD")
    visit.wait_for_rows("#events-rows", 1)
    assert "sold" in visit.text("#events-rows")
    house.post(conversion(4, "bought"), conversion(5, "sold"))
    visit.wait_for_rows("#events-rows", 2)
    visit.page.fill("#events-text", uuid_of(3))
    visit.wait_for_rows("#events-rows", 1)
    visit.page.fill("#events-text", "")
    visit.page.select_option("#events-kind", "impression")
    visit.wait_for_rows("#events-rows", 1)
    visit.page.select_option("#events-kind", "")
    visit.page.select_option("#events-state", "dead")
    visit.wait_for_text("#events-empty", "No event like that")
    house.endpoint.bad = {b"broken"}
    house.post(conversion(6, "broken"))
    visit.wait_for_rows("#events-rows", 1)  # it came as a queued one
    visit.wait_for_text("#events-rows", "Dead: http_400")


def test_a_paused_tail_stands_still(house: House, visit: Visit) -> None:
    """And counts what it does not show."""
    house.post(conversion(1, "bought"))
    visit.wait_for_rows("#events-rows", 1)
    visit.page.click("#events-pause")
    house.post(conversion(2, "sold"))
    visit.wait_for_text("#events-note", "1 newer event not shown")
    assert "sold" not in visit.text("#events-rows")
    visit.page.click("#events-pause")
    visit.wait_for_rows("#events-rows", 2)


def test_a_click_shows_the_payload_with_its_visitor_masked(house: House, visit: Visit) -> None:
    """Wherever in the row the click is."""
    house.post(conversion(1, "bought"))
    visit.wait_for_rows("#events-rows", 1)
    visit.page.locator("#events-rows td").nth(3).click()
    shown = visit.page.locator('#panel-body pre[aria-label="Payload"]').inner_text()
    assert json.loads(shown)["visitors"][0]["snapshots"][0]["events"][0]["uuid"] == uuid_of(1)
    assert "visitor-7" not in visit.text("#panel")
    assert json.loads(shown)["visitors"][0]["visitor_id"] == "****"
    visit.page.get_by_role("button", name="Close Esc").or_(visit.page.locator("#panel [data-close]")).first.click()
    assert not visit.page.locator("#panel").is_visible()


def test_a_dead_letter_is_looked_at_and_retried(house: House, visit: Visit) -> None:
    """Its answer and payload are there; the endpoint gets the very same bytes; the sum closes."""
    with_dead(house, visit, 7)
    visit.wait_for_text("#reasons", "1 dead letter waits for a decision")
    (letter,) = letters(house)
    visit.page.locator("#dead-rows .open").click()
    answer = visit.page.locator('#panel-body pre[aria-label$="answer"]').inner_text()
    assert json.loads(answer) == {"message": "unknown entity of ****", "html": "<b>no</b>"}
    assert uuid_of(7) in visit.text("#panel-body")
    house.endpoint.bad = set()
    visit.page.locator("#panel-foot button", has_text="Retry").click()
    visit.wait_for_text("#toasts", "1 dead letter put back into the queue.")
    wait_for(lambda: letter.event.payload in house.endpoint.bodies)
    assert letter.event.payload == conversion(7, "broken_7")
    visit.wait_for_text("#dead-empty", "No dead letters")
    visit.wait_for_number("delivered", 2)
    visit.wait_for_text("#closes", "The sum closes")
    assert inspect.folder_status(house.journal).closes


def test_dead_letters_are_searched_chosen_and_discarded(house: House, visit: Visit) -> None:
    """After a question, since it is for good; the ledger counts them, and that is no loss."""
    with_dead(house, visit, 1, 2, 3)
    visit.page.fill("#dead-text", "broken_2")
    visit.wait_for_rows("#dead-rows", 1)
    assert visit.text("#dead-chosen") == "All that match"
    visit.page.fill("#dead-text", "nothing like that")
    visit.wait_for_text("#dead-empty", "No dead letter like that")
    visit.page.fill("#dead-text", "")
    visit.wait_for_rows("#dead-rows", 3)
    visit.page.locator("#dead-rows tr", has_text="broken_2").locator("input").check()
    visit.page.locator("#dead-rows tr", has_text="broken_3").locator("input").check()
    assert visit.text("#dead-chosen") == "2 letters chosen"
    visit.page.click("#dead-discard")
    visit.wait_for_text("#ask", "Discard 2 dead letters?")
    visit.page.click("#ask-no")
    assert len(letters(house)) == 3
    visit.page.click("#dead-discard")
    visit.page.click("#ask-yes")
    visit.wait_for_text("#toasts", "2 dead letters discarded.")
    visit.wait_for_number("dropped", 2)
    visit.wait_for_text("#verdict", "Nothing is being lost")
    visit.wait_for_rows("#dead-rows", 1)
    assert [b"broken_1" in one.event.payload for one in letters(house)] == [True]


def test_all_of_a_reason_are_retried(house: House, visit: Visit) -> None:
    """After a question that says how many; what the endpoint refuses again is dead again."""
    with_dead(house, visit, 1, 2, 3)
    visit.page.locator("#dead-reasons button", has_text="http_400").click()
    assert "All 3 letters “http_400”" in visit.text("#dead-chosen")
    house.endpoint.bad = {b"broken_3"}
    visit.page.click("#dead-retry")
    visit.wait_for_text("#ask", "Retry 3 dead letters?")
    visit.page.click("#ask-yes")
    visit.wait_for_text("#toasts", "3 dead letters put back into the queue.")
    visit.wait_for_number("delivered", 5)
    visit.wait_for_number("dead", 1)
    visit.wait_for_rows("#dead-rows", 1)
    assert "broken_3" in visit.text("#dead-rows")


def test_dead_letters_are_exported(house: House, visit: Visit) -> None:
    """One JSON object a line, masked as the page is; nothing changes."""
    with_dead(house, visit, 1, 2)
    with visit.page.expect_download() as download:
        visit.page.click("#dead-export")
    lines = Path(download.value.path()).read_text().splitlines()
    assert download.value.suggested_filename.endswith(".ndjson")
    assert {json.loads(line)["uuids"] for line in lines} == {uuid_of(1), uuid_of(2)}
    assert "visitor-7" not in "".join(lines)
    visit.wait_for_text("#toasts", "saving the export")
    assert len(letters(house)) == 2


def test_an_endpoint_that_is_down_and_back(house: House, visit: Visit) -> None:
    """Nothing is lost meanwhile; why, since when and when it is tried next is said; then it takes events again."""
    house.endpoint.down = True
    house.post(*(conversion(number, "bought") for number in range(8)))
    visit.wait_for_text(".endpoint", "Left alone")
    visit.wait_for_text(".endpoint-said", "http_503")
    visit.wait_for_text(".endpoint-said", "next probe")
    visit.wait_for_text("#reasons", "is left alone (http_503). 8 events kept for it.")
    visit.wait_for_text("#verdict", "Nothing is being lost")
    visit.wait_for_text("#happened-list", "Left alone")
    house.endpoint.down = False
    visit.wait_for_text(".endpoint", "Takes events")
    visit.wait_for_text("#happened-list", "Takes events again")
    visit.wait_for_number("delivered", 8)


def test_a_main_process_that_says_nothing_is_noticed(house: House, visit: Visit) -> None:
    """Old figures look like good news otherwise."""
    visit.wait_for_text("#verdict", "Nothing is being lost")
    house.relay.process.send_signal(signal.SIGSTOP)
    try:
        visit.wait_for_text("#verdict", "No news")
        visit.wait_for_text("#reasons", "has written nothing for")
        assert visit.page.title().startswith("!")
    finally:
        house.relay.process.send_signal(signal.SIGCONT)
    visit.wait_for_text("#verdict", "Nothing is being lost")


def test_what_events_say_is_text(browser: Any, tmp_path: Path) -> None:
    """In keys, projects, visitor ids and answers: nothing is run, nothing is loaded, all of it can be read."""
    script, picture = "<script>window.hacked = 1</script>", "<img src=//evil.example/x onerror=window.hacked=2>"
    with Endpoint() as endpoint, Relay(tmp_path / "j", "--visitor-ids", endpoint=endpoint.collector.url) as relay:
        endpoint.bad = {b"window.hacked"}
        post(relay.port, conversion(1, picture, project=script, visitor=script))
        with Visit(browser, f"http://127.0.0.1:{relay.port}") as visit:
            visit.go()
            visit.wait_for_rows("#dead-rows", 1)
            visit.wait_for_rows("#events-rows", 1)
            for table in ("#dead-rows", "#events-rows"):
                assert picture in visit.text(table)
                assert script in visit.text(table)
            visit.page.locator("#dead-rows .open").click()
            visit.wait_for_text("#panel-title", picture)
            assert script in visit.text("#panel .facts")
            assert "<b>no</b>" in visit.text('#panel-body pre[aria-label$="answer"]')
            payload = json.loads(visit.text('#panel-body pre[aria-label="Payload"]'))
            assert payload["visitors"][0]["visitor_id"] == script
            assert visit.page.evaluate("window.hacked") is None
            assert visit.page.locator("script").count() == 1
            assert visit.page.locator("main img, #panel img, #panel b").count() == 0
            refused = visit.page.evaluate("""() => {
                try { document.body.innerHTML = "<b>x</b>"; return "taken"; } catch (error) { return error.name; }
            }""")
            assert refused == "TypeError"  # what turns text into markup is refused by the browser itself
            visit.errors[:] = [said for said in visit.errors if "TrustedHTML" not in said]


def test_by_keyboard_alone(house: House, visit: Visit) -> None:
    """From the first Tab to a retried letter; what has the focus can be seen."""
    with_dead(house, visit, 1, 2)
    keys, page = visit.page.keyboard, visit.page

    def focus() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("Enter")
    assert focus() == "main"
    keys.press("/")
    assert focus() == "events-text"
    page.keyboard.type("broken_1")
    visit.wait_for_rows("#events-rows", 1)
    keys.press("Escape")
    keys.press("j")
    assert focus() == "open"
    assert page.evaluate("document.activeElement.closest('table').id") == "events-table"
    keys.press("Enter")
    page.locator("#panel").wait_for()
    assert page.evaluate("document.querySelector('#panel').contains(document.activeElement)")
    keys.press("Escape")
    assert focus() == "open"
    keys.press("4")
    assert focus() == "dead"
    for key in ("j", "j", "x", "k", "x", "j", "x"):
        keys.press(key)
    assert visit.text("#dead-chosen") == "1 letter chosen"
    house.endpoint.bad = set()
    keys.press("r")
    visit.wait_for_text("#toasts", "1 dead letter put back into the queue.")
    visit.wait_for_rows("#dead-rows", 1)
    keys.press("?")
    visit.wait_for_text("#keys", "Keyboard shortcuts")
    page.locator("#keys-on").press("Space")
    keys.press("Escape")
    keys.press("/")
    assert focus() != "events-text"  # single keys are switched off, and stay so
    page.reload()
    page.locator("#keys-on").wait_for(state="attached")
    assert not page.locator("#keys-on").is_checked()


def test_the_charts_are_read_by_keyboard(house: House, visit: Visit) -> None:
    """A second at a time; how far back they go is a choice."""
    house.post(conversion(1, "bought"))
    visit.wait_for_number("delivered", 1)
    visit.wait("document.querySelectorAll('#chart-queue .line').length === 1")
    visit.page.focus("#chart-queue svg")
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.locator("#chart-queue .cursor").count() == 1
    assert visit.text("#chart-queue figcaption small").count(":") == 2
    visit.page.focus('.switch [data-minutes="2"]')
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.evaluate("document.activeElement.dataset.minutes") == "10"
    visit.wait_for_text("#chart-rate .axes span", "10 min ago")
    assert visit.page.locator("#chart-queue .cursor").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits(browser: Any, lived_in: House, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the window, from a phone to a desk, and both colour schemes are there."""
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with Visit(browser, lived_in.url, **options) as visit:
        visit.go()
        visit.wait_for_rows("#dead-rows", 1)
        visit.wait_for_text("#events-rows", "a_flag_with")
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        light = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(245, 246, 248)") == (scheme == "light")
        visit.page.locator("#dead-rows .open").click()
        visit.page.locator("#panel").wait_for()
        box = visit.page.locator("#panel").bounding_box()
        assert (box["x"] >= 0, box["x"] + box["width"] <= width) == (True, True)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        shot = visit.page.screenshot(path=tmp_path / "page.png")
        assert len(shot) > 10_000


def test_a_relay_that_was_restarted_has_its_page_again(browser: Any, tmp_path: Path) -> None:
    """An open page finds it by itself, with a token that is its own: what it shows can be changed."""
    with Endpoint() as endpoint:
        endpoint.bad = {b"broken"}
        relay = Relay(tmp_path / "j", endpoint=endpoint.collector.url)
        with Visit(browser, f"http://127.0.0.1:{relay.port}") as visit:
            visit.go()
            post(relay.port, conversion(1, "broken"))
            visit.wait_for_rows("#dead-rows", 1)
            token = visit.page.locator('meta[name="page"]').get_attribute("data-token")
            assert relay.stop()[0] == 0
            visit.wait_for_text("#live", "Reconnecting")
            with Relay(tmp_path / "j", endpoint=endpoint.collector.url, port=relay.port):
                visit.wait(f"document.querySelector('meta[name=page]').dataset.token !== '{token}'")
                visit.wait_for_rows("#dead-rows", 1)
                endpoint.bad = set()
                visit.page.locator("#dead-rows input").check()
                visit.page.click("#dead-retry")
                visit.wait_for_text("#toasts", "1 dead letter put back into the queue.")
                visit.errors[:] = [said for said in visit.errors if "Failed to load resource" not in said]
                visit.page.close()
