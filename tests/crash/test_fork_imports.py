"""Nothing is imported on the sender's threads: a fork in that moment would leave the child a module's lock for ever."""

import subprocess
import sys

import pytest

from eventpost.testing import Collector, Reply
from support import curl_transport

SCRIPT = """
import sys, threading, time, logging
logging.basicConfig(level=logging.DEBUG)
from eventpost import EventDispatcher, JournalQueue, LogEvent, RetryPolicy
from eventpost.transports.build import build_http_transport
if sys.argv[2] == "pool":
    from eventpost.transports.pool import PoolTransport as Transport
else:
    from eventpost.transports.curl import CurlTransport as Transport
main, seen = threading.get_ident(), []

def hook(name, arguments):
    if name == "import" and threading.get_ident() != main:
        seen.append(arguments[0])

def event(number):
    return LogEvent(sys.argv[1], {"visitors": [{"visitor_id": "v", "number": number}]})

retry = RetryPolicy(first_s=0.01, max_s=0.02, breaker_first_s=0.01, breaker_max_s=0.02)
dispatcher = EventDispatcher(JournalQueue(sys.argv[3]), transport=Transport(), retry=retry)
sys.addaudithook(hook)
for number in range(30):
    assert dispatcher.dispatch_event(event(number))
report = dispatcher.close(timeout_s=10)
assert report.delivered == 29 and report.dead == 1, report
print(sorted(set(seen)))
"""


@pytest.mark.parametrize("transport", ["curl", "pool"])
def test_the_sender_imports_nothing_on_its_threads(tmp_path, transport):
    """Through deliveries, a 503 with Retry-After, resets, a refusal and its dead letter, with both transports."""
    if transport == "curl":
        curl_transport().close()
    replies = [
        Reply(503, retry_after_date_s=-10),
        Reply(503, retry_after=0),
        Reply(reset="before"),
        Reply(400, body=b"\xff"),
    ]
    with Collector() as collector:
        collector.script(replies)
        words = [
            sys.executable,
            "-c",
            SCRIPT,
            collector.url.replace("127.0.0.1", "localhost"),
            transport,
            tmp_path / "j",
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
