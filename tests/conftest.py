"""What every test gets: bounded, repeatable property tests."""

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, max_examples=100)
settings.register_profile(
    "ci", deadline=None, max_examples=200, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background, which children would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
