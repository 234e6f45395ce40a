"""What deploy/ holds is what its tools take, and says what the code says: settings, deadlines, users, metrics."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eventpost.queues.journal.bounds import DEAD_BYTES_MAX
from eventpost.relay.settings import TABLE, read_settings
from eventpost.relay.supervisor import STOP_SPARE_S
from relay_support import Relay
from support import missing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "eventpost-relay.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = ("1.29", "1.37")
UID = 10001
MARGIN_S = 5.0
"""For what no deadline bounds: the end of threads, the last line, the service manager's own time."""
APPLICATION_S = 20.0
"""What sidecar.yaml says the application takes to stop."""
EXPOSURE_MAX = 20
"""Tenths, of systemd's 100."""
DIGEST = "sha256:" + 64 * "0"
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def tool(name: str) -> str:
    """Return a tool's path, from the environment of the tests or from the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return found or missing(name)


def run(*command: str, **more) -> subprocess.CompletedProcess:
    """Run a tool, and return what it said."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def documents(path: Path) -> list:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def objects() -> dict:
    """Return what the manifests describe, by kind and name."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for path in MANIFESTS for one in documents(path)}


def pod(name: str) -> dict:
    """Return the description of a workload's pods."""
    return objects()[name]["spec"]["template"]["spec"]


def relay_of(name: str) -> dict:
    """Return a workload's container that is a relay."""
    spec = pod(name)
    (found,) = [one for one in [*spec.get("initContainers", ()), *spec["containers"]] if one["name"] == "relay"]
    return found


def environment(container: dict) -> dict[str, str]:
    """Return a container's environment over the image's; a secret is some digest."""
    return image_environment() | {one["name"]: one.get("value", DIGEST) for one in container["env"]}


def image_environment() -> dict[str, str]:
    """Return what the image sets."""
    text = (DEPLOY / "Dockerfile").read_text()
    return dict(re.findall(r"(EVENTPOST_RELAY_\w+)=(\S+)", text))


def unit_values(name: str) -> list[str]:
    """Return the values of a key in the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def unit_environment() -> dict[str, str]:
    """Return what the unit sets."""
    return dict(one.split("=", 1) for line in unit_values("Environment") for one in shlex.split(line))


def compose_relay() -> dict:
    """Return the compose file's service."""
    (whole,) = documents(DEPLOY / "compose.yaml")
    return whole["services"]["relay"]


def compose_environment() -> dict[str, str]:
    """Return what the compose file sets over the image, with digests where it asks for them."""
    given = {
        name: DIGEST if value.startswith("${") else value for name, value in compose_relay()["environment"].items()
    }
    return image_environment() | given


def seconds(text: str) -> float:
    """Return a duration in seconds."""
    match = re.fullmatch(r"(\d+)s?", str(text))
    assert match, text
    return float(match.group(1))


def size_of(text: str) -> int:
    """Return a quantity in bytes."""
    return int(text[:-2]) * UNITS[text[-2:]]


ENVIRONMENTS = {
    "image": lambda: image_environment() | {"EVENTPOST_RELAY_TOKEN": DIGEST},
    "compose": compose_environment,
    "systemd": unit_environment,
    "statefulset": lambda: environment(relay_of("StatefulSet/eventpost-relay")),
    "sidecar": lambda: environment(relay_of("Deployment/shop")),
}


class TestTools:
    """The tools of each format take the files."""

    def test_dockerfile(self):
        """Hadolint has nothing to say."""
        said = run(tool("hadolint"), str(DEPLOY / "Dockerfile"))
        assert (said.returncode, said.stdout) == (0, "")

    def test_hadolint_can_say_no(self, tmp_path):
        """It is not silent about everything."""
        (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
        assert "DL3006" in run(tool("hadolint"), str(tmp_path / "Dockerfile")).stdout

    def test_compose(self):
        """The published schema of compose files takes ours."""
        said = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
        assert said.returncode == 0, said.stdout

    @pytest.mark.parametrize("version", KUBERNETES)
    @pytest.mark.parametrize("name", objects())
    def test_kubernetes(self, name, version):
        """The schemas of the oldest release that the sidecar needs, and of a new one, take each object."""
        import kubernetes_validate

        kubernetes_validate.validate(objects()[name], version, strict=True)

    def test_kubernetes_can_say_no(self):
        """A field that does not exist is one too many."""
        import kubernetes_validate

        service = objects()["Service/eventpost-relay"]
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(service | {"spec": {"prots": []}}, KUBERNETES[-1], strict=True)

    def test_unit(self, tmp_path):
        """Systemd understands every line; the relay, which is not installed here, is stood in for."""
        text = UNIT.read_text()
        stand_in = text.replace("ExecStart=/opt/eventpost/bin/eventpost relay", "ExecStart=/bin/sh relay")
        assert stand_in != text
        (tmp_path / UNIT.name).write_text(stand_in)
        said = run(tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / UNIT.name))
        assert (said.returncode, said.stderr) == (0, "")

    def test_unit_is_hardened(self):
        """Systemd's own measure of what a service could do stays low."""
        command = ("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", str(UNIT))
        said = run(tool("systemd-analyze"), *command)
        assert said.returncode == 0, said.stdout + said.stderr

    def test_user(self, tmp_path):
        """Systemd makes the unit's user of the file."""
        (tmp_path / "etc").mkdir()
        said = run(tool("systemd-sysusers"), f"--root={tmp_path}", str(DEPLOY / "systemd" / "eventpost.sysusers.conf"))
        assert said.returncode == 0, said.stderr
        assert f"\n{unit_values('User')[0]}:" in "\n" + (tmp_path / "etc" / "passwd").read_text()

    def test_continuous_integration_installs_them(self):
        """What the tests look for, .ci/run brings."""
        script = (ROOT / ".ci" / "run").read_text()
        assert "systemd-analyze" in script
        assert "promtool" in script


class TestSettings:
    """The settings that the files make are ones the relay takes."""

    @pytest.mark.parametrize("name", ENVIRONMENTS)
    def test_are_taken(self, name):
        """The relay would start with them, and knows every one."""
        environ = ENVIRONMENTS[name]()
        said = {one for one in environ if one.startswith("EVENTPOST_RELAY_")}
        assert said - {row.env for row in TABLE} == set()
        read_settings({}, environ=environ)

    @pytest.mark.parametrize("name", ["compose", "statefulset"])
    def test_beyond_loopback_tokens_are_asked_for(self, name):
        """Nothing that listens on a network is open."""
        settings = read_settings({}, environ=ENVIRONMENTS[name]())
        assert not settings.loopback
        assert settings.token
        assert settings.page_token
        assert not settings.open
        assert not settings.open_page

    @pytest.mark.parametrize("name", ["systemd", "sidecar"])
    def test_beside_the_application_it_is_on_loopback(self, name):
        """Where nobody else need connect, nobody else can."""
        assert read_settings({}, environ=ENVIRONMENTS[name]()).loopback

    def test_the_examples_of_the_unit_are_settings(self):
        """Each line of the example file names a setting."""
        names = re.findall(r"^# (EVENTPOST_\w+)=", (DEPLOY / "systemd" / "relay.env.example").read_text(), re.MULTILINE)
        assert names
        assert set(names) <= {row.env for row in TABLE}


class TestTheEnd:
    """Who runs the relay waits longer for its end than it takes."""

    def longest_s(self, name: str) -> float:
        """Return how long a stop takes at most."""
        settings = read_settings({}, environ=ENVIRONMENTS[name]())
        return settings.stop_timeout_s + STOP_SPARE_S + settings.drain_timeout_s

    def test_unit(self):
        """TimeoutStopSec; and the main process alone is told."""
        assert seconds(unit_values("TimeoutStopSec")[0]) >= self.longest_s("systemd") + MARGIN_S
        assert unit_values("KillMode") == ["mixed"]

    def test_compose(self):
        """stop_grace_period."""
        assert seconds(compose_relay()["stop_grace_period"]) >= self.longest_s("compose") + MARGIN_S

    def test_statefulset(self):
        """The grace period holds preStop, too."""
        command = relay_of("StatefulSet/eventpost-relay")["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "sleep"
        grace_s = pod("StatefulSet/eventpost-relay")["terminationGracePeriodSeconds"]
        assert grace_s >= float(command[1]) + self.longest_s("statefulset") + MARGIN_S

    def test_sidecar(self):
        """The grace period holds the application's own end, too."""
        text = (DEPLOY / "kubernetes" / "sidecar.yaml").read_text()
        assert f"({APPLICATION_S:g} s here)" in text
        grace_s = pod("Deployment/shop")["terminationGracePeriodSeconds"]
        assert grace_s >= APPLICATION_S + self.longest_s("sidecar") + MARGIN_S
        assert relay_of("Deployment/shop")["restartPolicy"] == "Always"


class TestContainers:
    """No root, no rights, nothing to write to, and room for what is stored."""

    @pytest.mark.parametrize("name", ["StatefulSet/eventpost-relay", "Deployment/shop", "Job/eventpost-drain-2"])
    def test_rights(self, name):
        """Each container of ours has none."""
        spec = pod(name)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == UID
        assert spec["automountServiceAccountToken"] is False
        for one in [*spec.get("initContainers", ()), *spec["containers"]]:
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}

    def test_image_and_compose(self):
        """The user is a number, the same everywhere; compose takes the same rights away."""
        assert re.findall(r"^USER (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE) == [f"{UID}:{UID}"]
        service = compose_relay()
        assert service["user"] == f"{UID}:{UID}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]

    def test_what_the_image_copies_is_there_and_not_ignored(self):
        """Each source of a COPY from the context exists, and .dockerignore lets it through."""
        lines = re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        sources = [one for line in lines for one in line.split()[:-1]]
        let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        assert len(sources) >= 6
        assert [one for one in sources if not (ROOT / one).exists()] == []
        assert set(sources) == let_through

    def test_volumes_hold_what_the_bounds_allow(self):
        """The queue, the dead letters and what is set aside fit: a relay says 503 before its volume is full."""
        claim = objects()["StatefulSet/eventpost-relay"]["spec"]["volumeClaimTemplates"][0]
        (folder,) = [one["emptyDir"] for one in pod("Deployment/shop")["volumes"] if one["name"] == "journal"]
        sizes = {"statefulset": claim["spec"]["resources"]["requests"]["storage"], "sidecar": folder["sizeLimit"]}
        for name, size in sizes.items():
            settings = read_settings({}, environ=ENVIRONMENTS[name]())
            assert settings.bytes_max + 2 * DEAD_BYTES_MAX <= size_of(size), name

    def test_the_drain_sends_from_where_the_relay_stores(self):
        """The job's folder is the relay's, and the claim one of the StatefulSet's."""
        spec = pod("Job/eventpost-drain-2")
        assert spec["containers"][0]["volumeMounts"] == relay_of("StatefulSet/eventpost-relay")["volumeMounts"]
        command = spec["containers"][0]["command"]
        assert command[command.index("--journal") + 1] == image_environment()["EVENTPOST_RELAY_JOURNAL"]
        claim = next(one["persistentVolumeClaim"]["claimName"] for one in spec["volumes"] if one["name"] == "journal")
        assert re.fullmatch(r"journal-eventpost-relay-\d+", claim)
        keep = objects()["StatefulSet/eventpost-relay"]["spec"]["persistentVolumeClaimRetentionPolicy"]
        assert set(keep.values()) == {"Retain"}


def test_healthcheck(tmp_path):
    """It is well while the relay answers, and not when nobody does."""
    script = str(DEPLOY / "healthcheck.py")
    with Relay(tmp_path / "j") as relay:
        environ = {"EVENTPOST_RELAY_LISTEN": f"127.0.0.1:{relay.port}", "PYTHONPATH": str(ROOT / "src")}
        assert run(sys.executable, script, env=environ).returncode == 0
        assert run(sys.executable, script, "/readyz", env=environ).returncode == 0
        assert run(sys.executable, script, "/nowhere", env=environ).returncode == 1
    gone = run(sys.executable, script, env=environ)
    assert gone.returncode == 1
    assert "refused" in gone.stderr
