"""The program around the page's file: see sdks.py for what it reads and says."""

import os
import sys
from pathlib import Path

from optimizely.helpers.enums import NotificationTypes
from relay_client import new_client


def say_uuids(log_event):
    """Say which events are in a request."""
    for visitor in log_event.params["visitors"]:
        for snapshot in visitor["snapshots"]:
            for event in snapshot["events"]:
                print("uuid", event["uuid"], flush=True)


client = new_client(Path(sys.argv[1]).read_text(), sys.argv[2], os.environ.get("RELAY_TOKEN"))
client.event_processor.notification_center.add_notification_listener(NotificationTypes.LOG_EVENT, say_uuids)
print("ready", flush=True)
for line in sys.stdin:
    first, count = map(int, line.split())
    for number in range(first, first + count):
        user = client.create_user_context(f"visitor-é-{number}", {"plan": "gold", "country": "日本"})
        user.decide("checkout_flow")
        user.track_event("purchase", {"revenue": number, "value": 0.25, "note": "café ☕ 北京"})
client.close()
print("closed", flush=True)
