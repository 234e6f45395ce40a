"""What the processes of the outage have in common: the body of the n-th event, and how they write down what they saw.

The body says its number twice, in its uuid and in its timestamp, so whoever has the number can tell whether the bytes
are still those that were posted.
"""

from __future__ import annotations

import json
import struct
from typing import Final

RECORD: Final = struct.Struct("<ddq")
"""One answered request at the endpoint: when it was there, when it was answered (monotonic seconds, the same for all
processes of a machine), and its event's number; CHANGED if its body is none that was posted."""
CELLS: Final = struct.Struct("<5Q")
"""The clients' counts: events begun, acknowledged, posts written, posts without an answer, connections refused."""
CHANGED: Final = -1
_UUID: Final = b"0f9d7a5e-3c2b-4a1d-9e8f-"
_KEY: Final = b'"uuid":"' + _UUID
_NUMBER_AT: Final = len(_KEY)
_BASE_MS: Final = 1_790_000_000_000


def _template() -> bytes:
    """Return the body of an impression as an SDK sends it, with its visitor, timestamp and number left open."""
    decision = {
        "campaign_id": "9300001", "experiment_id": "9300002", "variation_id": "9300003", "is_campaign_holdback": False,
        "metadata": {
            "flag_key": "checkout", "rule_key": "rule_1", "rule_type": "experiment", "variation_key": "on",
            "enabled": True,
        },
    }  # fmt: skip
    event = {
        "entity_id": "9300001", "timestamp": "TIMESTAMP", "key": "campaign_activated", "uuid": "UUID",
    }  # fmt: skip
    visitor = {
        "visitor_id": "VISITOR",
        "attributes": [{"entity_id": "11", "key": "plan", "type": "custom", "value": "pro"}],
        "snapshots": [{"decisions": [decision], "events": [event]}],
    }
    batch = {
        "account_id": "12001", "project_id": "12002", "revision": "42", "client_name": "python-sdk",
        "client_version": "5.7.0", "anonymize_ip": True, "enrich_decisions": True, "visitors": [visitor],
    }  # fmt: skip
    text = json.dumps(batch, separators=(",", ":")).encode()
    return (
        text.replace(b"VISITOR", b"visitor-%06d")
        .replace(b'"TIMESTAMP"', b"%d")
        .replace(b'"UUID"', b'"' + _UUID + b'%012x"')
    )


TEMPLATE: Final = _template()


def body(number: int) -> bytes:
    """Return the n-th event's batch."""
    return TEMPLATE % (number % 1_000_000, _BASE_MS + number, number)


def number_of(data: bytes) -> int:
    """Return the number of the event in a body; CHANGED if the body is not, byte for byte, that event's."""
    at = data.find(_KEY) + _NUMBER_AT
    try:
        number = int(data[at : at + 12], 16)
    except ValueError:
        return CHANGED
    return number if body(number) == data else CHANGED
