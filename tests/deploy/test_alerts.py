"""The alert rules: they parse, fire when they should, name metrics that there are, and each has its paragraph."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support import missing

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
STATE = {
    "at": 0.0, "started_at": 0.0, "workers": [{"pid": 1, "restarts": 0}],
    "journals": [{
        "path": "/", "accepted": 1, "delivered": 0, "queued": 0, "dead": 0, "dropped": {"damaged": 1},
        "oldest_age_s": None, "stored_bytes": 0, "dead_bytes": 0, "closes": True, "needs": [], "bytes_max": 1,
        "in_flight": 0, "lanes": [], "members": [],
        "shards": [{
            "number": 0, "queued": 0, "in_flight": 0, "oldest_age_s": None, "stored_bytes": 0, "trouble": "",
        }],
    }],
}  # fmt: skip


def promtool(*arguments: str) -> subprocess.CompletedProcess:
    """Run promtool in the rules' folder."""
    path = shutil.which("promtool") or missing("promtool")
    return subprocess.run([path, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)


def metrics(folder: Path) -> dict[str, set[str]]:
    """Return the names of all metrics that the relay shows, with their labels."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.parser import text_string_to_metric_families

    from eventpost.watch.prometheus import DoorMetrics, MetricsObserver, render
    from eventpost.watch.signals import BreakerChanged

    registry = CollectorRegistry()
    DoorMetrics(registry=registry).refused("queue_full")
    MetricsObserver(registry)(BreakerChanged("http://127.0.0.1/", "open", "connect"))
    of_state = text_string_to_metric_families(render(str(folder), STATE)[0].decode())
    samples = [sample for family in (*registry.collect(), *of_state) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_the_rules_are_rules():
    """Promtool understands them, and the part of a configuration that they are written for."""
    for command in (("check", "rules", "alerts.yml"), ("check", "config", "--syntax-only", "scrape.yml")):
        said = promtool(*command)
        assert said.returncode == 0, said.stdout + said.stderr


def test_the_rules_fire_when_they_should():
    """Their own tests pass."""
    said = promtool("test", "rules", "alerts_test.yml")
    assert said.returncode == 0, said.stdout + said.stderr


def test_each_rule_is_tested_both_ways():
    """The rules' tests see each alert fire, and see it silent."""
    tests = [
        one
        for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
        for one in test["alert_rule_test"]
    ]
    assert {one["alertname"] for one in tests if one["exp_alerts"]} == set(NAMES)
    assert {one["alertname"] for one in tests if not one["exp_alerts"]} == set(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_metric_is_there(rule, tmp_path):
    """A rule over a metric or a label that nobody shows would be silent for ever."""
    shown = metrics(tmp_path)
    expression = rule["expr"]
    named = re.findall(r"\b(eventpost_\w+)", expression)
    assert named or "up{" in expression
    assert [name for name in named if name not in shown] == []
    for name, matchers in re.findall(r"\b(eventpost_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[=!]~?", matchers)) <= shown[name]


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_has_its_paragraph(rule):
    """It says what the alert means, where to look, what to do, and what not to do; and the alert leads there."""
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    found = re.search(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert found, "no paragraph"
    for part in ("**Means.**", "**Look at.**", "**Do.**", "**Do not.**"):
        assert found.group(1).count(part) == 1, part


def test_the_runbook_has_no_paragraph_too_many():
    """An alert that is gone leaves none behind."""
    assert set(re.findall(r"^## (Eventpost\w+)$", RUNBOOK, re.MULTILINE)) == set(NAMES)
