"""The relay's settings: one table, four sources in one order, and messages that name the source."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

from eventpost.cli.app import app
from eventpost.relay.access import make_digest
from eventpost.relay.row import SettingError
from eventpost.relay.settings import TABLE, RelaySettings, parse_listen, read_settings

DIGEST = make_digest("a token")


def read(flags=None, environ=None, config=None):
    """Return the settings of these sources, and of nothing else."""
    return read_settings(flags or {}, environ=environ or {}, config=config)


def test_the_table_is_the_settings():
    """Each field is a row, with a meaning, a variable and a flag of its own."""
    assert [row.name for row in TABLE] == [one.name for one in fields(RelaySettings) if one.name != "sources"]
    assert all(row.meaning for row in TABLE)
    assert len({row.env for row in TABLE}) == len({row.flag for row in TABLE}) == len(TABLE)


def test_defaults_are_sound():
    """Without any source the settings are the defaults, on loopback, and nothing is open."""
    made = read()
    assert made == RelaySettings()
    assert made.loopback
    assert (made.open, made.open_page, made.origin) == (False, False, ())
    for row in TABLE:
        assert row.checked(row.default, row.name) == row.default


def test_one_order(tmp_path):
    """A flag wins over the environment, that over the file, and that over the default."""
    file = tmp_path / "relay.toml"
    file.write_text('workers = 2\nprefix = "file"\ndrain_timeout_s = 7\norigin = ["https://a.example"]\n')
    environ = {"EVENTPOST_RELAY_WORKERS": "3", "EVENTPOST_RELAY_PREFIX": "/env/", "EVENTPOST_RELAY_CONFIG": str(file)}
    made = read({"workers": 4, "prefix": None, "journal": []}, environ)
    assert (made.workers, made.prefix, made.drain_timeout_s, made.body_timeout_s) == (4, "/env", 7.0, 30.0)
    assert made.origin == ("https://a.example",)
    assert made.sources == {
        "workers": "--workers",
        "prefix": "EVENTPOST_RELAY_PREFIX",
        "drain_timeout_s": f"{file}: drain_timeout_s",
        "origin": f"{file}: origin",
    }


def test_every_kind_comes_from_the_environment():
    """Numbers, switches, texts and lists."""
    made = read(
        environ={
            "EVENTPOST_RELAY_JOURNAL": "/a, /b",
            "EVENTPOST_RELAY_MERGE": "Yes",
            "EVENTPOST_RELAY_BYTES_MAX": "10_000_000",
            "EVENTPOST_RELAY_RATE_PER_S": "2.5",
            "EVENTPOST_RELAY_ENDPOINT": "http://127.0.0.1:1/v1/events",
            "EVENTPOST_RELAY_EU": "",
        }
    )
    assert (made.journal, made.merge, made.bytes_max, made.rate_per_s) == (("/a", "/b"), True, 10_000_000, 2.5)
    assert (made.endpoint, made.eu) == ("http://127.0.0.1:1/v1/events", False)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("workers", "0", "at least 1"),
        ("workers", "65", "at most 64"),
        ("workers", "two", "whole number"),
        ("workers", "1.5", "whole number"),
        ("rate_per_s", "nan", "number"),
        ("rate_per_s", "-1", "at least 0"),
        ("merge", "perhaps", "one of"),
        ("durability", "memory", "os, fsync"),
        ("endpoint", "ftp://x/", "http"),
        ("endpoint", "//logx.optimizely.com", "http"),
        ("listen", "8787", "HOST:PORT"),
        ("journal", "~nobody-of-this-name/x", "no home"),
        ("listen", "::1:80", "brackets"),
        ("listen", "127.0.0.1:99999", "HOST:PORT"),
        ("prefix", "/a b", "path"),
        ("prefix", "/../x?", "path"),
        ("token", "evp_not-a-digest", "digest"),
        ("origin", "shop.example", "origin"),
        ("origin", "https://shop.example/path", "origin"),
        ("host", "a:80", "host name"),
        ("trusted_proxy", "proxy", "address"),
        ("body_bytes_max", "3500001", "at most 3,500,000"),
        ("allow_endpoint", "file:///etc/passwd", "http"),
    ],
)
def test_a_value_that_makes_no_sense(name, text, says, tmp_path):
    """It is refused with its source named, wherever it comes from."""
    env = f"EVENTPOST_RELAY_{name.upper()}"
    with pytest.raises(SettingError, match=env) as refused:
        read(environ={env: text})
    assert says in str(refused.value)
    assert "evp_" not in str(refused.value)
    row = next(one for one in TABLE if one.name == name)
    if row.kind in (str, tuple):
        file = tmp_path / "relay.toml"
        file.write_text(f'{name} = "{text}"\n' if row.kind is str else f'{name} = ["{text}"]\n')
        with pytest.raises(SettingError, match=rf"relay\.toml: {name}"):
            read(config=str(file))
        with pytest.raises(SettingError, match=row.flag):
            read({name: text if row.kind is str else [text]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers = ", "relay.toml"),
        ("worker = 2", "no setting 'worker'; 'workers'?"),
        ("zebra = 2", "no setting 'zebra'"),
        ("sources = {}", "no setting 'sources'"),
        ('workers = "2"', "relay.toml: workers must be a whole number"),
        ("workers = true", "workers must be a whole number"),
        ("merge = 1", "merge must be a switch"),
        ('origin = "https://a.example"', "origin must be a list"),
        ("origin = [1]", "origin must be a list"),
        ("journal = []", "a journal is needed"),
        ("prefix = 1", "prefix must be a text"),
    ],
)
def test_a_file_that_makes_no_sense(text, says, tmp_path):
    """A file is refused with its name and the key."""
    file = tmp_path / "relay.toml"
    file.write_text(text)
    with pytest.raises(SettingError) as refused:
        read(config=str(file))
    assert says in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "relay.example"])
def test_beyond_loopback_it_wants_to_know_who(host):
    """Listening for others without a word on who may send is refused; each word on it will do."""
    with pytest.raises(SettingError, match="relay-token"):
        read({"listen": f"{host}:8787"})
    for word in ({"token": [DIGEST]}, {"origin": ["https://a.example"]}, {"open": True}):
        assert not read({"listen": f"{host}:8787", **word}).loopback
    assert read({"listen": f"{host}:1", "tls_cert": "c", "tls_client_ca": "a"}).rules.certificates


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback(host):
    """These addresses are this machine's alone."""
    assert read({"listen": f"{host}:8787"}).loopback


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tls_key": "k"}, "tls_cert"),
        ({"journal": ["/a", "/b/../a"]}, "named twice"),
        ({"tls_client_ca": "k"}, "tls_cert"),
        ({"endpoint": "http://a/", "allow_endpoint": ["http://b/"]}, "everything goes there"),
        ({"spill": "/a"}, "--spill means nothing without queue"),
        ({"replicas": 1}, "--replicas means nothing without queue"),
        ({"durability": "host"}, "host needs a queue"),
        ({"queue": "redis://x", "journal": ["/a"]}, "--journal means nothing with queue"),
        ({"queue": "redis://x", "group": "g"}, "--group means nothing with queue"),
        ({"queue": "redis://x", "durability": "host"}, "host needs replicas"),
        ({"queue": "http://:secret@x"}, r"^--queue: url must begin with redis://, [^@]*$"),
    ],
)
def test_what_does_not_go_together(flags, says):
    """Settings that contradict each other, or need each other, are refused."""
    with pytest.raises(SettingError, match=says):
        read(flags)


def test_where_events_go():
    """The endpoints, and what may be asked at all."""
    us, eu = "https://logx.optimizely.com/v1/events", "https://eu.logx.optimizely.com/v1/events"
    assert (read().us_url, read().eu_url, read().allowed_urls) == (us, eu, {us, eu})
    assert (read({"eu": True}).us_url, read({"eu": True}).allowed_urls) == (eu, {eu})
    one = read({"endpoint": "http://a.example/x"})
    assert (one.us_url, one.eu_url, one.allowed_urls) == (
        "http://a.example/x",
        "http://a.example/x",
        {"http://a.example/x"},
    )
    assert read({"allow_endpoint": ["http://b/"]}).allowed_urls == {us, eu, "http://b/"}


def test_a_shared_queue_is_named_by_the_environment_of_all_unless_a_journal_is_meant():
    """The relay's own variable wins over that of every process; a journal that is named keeps it a journal."""
    everybody = {"EVENTPOST_QUEUE": "redis://all"}
    assert read({}, everybody).queue == "redis://all"
    assert read({}, everybody).sources == {"queue": "EVENTPOST_QUEUE"}
    assert read({}, everybody | {"EVENTPOST_RELAY_QUEUE": "redis://mine"}).queue == "redis://mine"
    assert read({"journal": ["/a"]}, everybody).queue is None
    assert read().shared is None


def test_the_password_is_shown_nowhere(monkeypatch):
    """Neither the URL's nor the environment's, in no way of looking at the settings."""
    monkeypatch.setenv("EVENTPOST_QUEUE_PASSWORD", "other-secret")
    made = read({"queue": "redis://user:secret@x", "queue_name": "n"})
    shared = made.shared
    assert (shared.url, shared.name, shared.password) == ("redis://user:secret@x", "n", "other-secret")
    shown = f"{made!r} {made} {shared!r} {shared} {made.sources}"
    assert "secret" not in shown
    assert str(shared) == "redis://x:6379"


def test_settings_reach_a_worker_as_they_are():
    """As plain values and back they are the same, but for their sources."""
    made = read({"journal": ["/a", "/b"], "token": [DIGEST], "workers": 3})
    assert RelaySettings.from_dict(made.as_dict()).as_dict() == made.as_dict()
    assert RelaySettings.from_dict(made.as_dict()).journal == ("/a", "/b")


def test_addresses():
    """Host and port, IPv6 in brackets."""
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_listen("localhost:0") == ("localhost", 0)


def test_the_command_line_says_what_is_wrong(tmp_path):
    """A wrong value is wrong usage, exit code 2, with its source."""
    runner = CliRunner()
    environ = {"EVENTPOST_RELAY_WORKERS": "many"}
    result = runner.invoke(app, ["relay"], env=environ)
    assert result.exit_code == 2
    assert "EVENTPOST_RELAY_WORKERS" in result.output
    result = runner.invoke(app, ["relay", "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "none.toml" in result.output


def test_a_token_and_its_digest():
    """``relay-token`` makes a new token each time; its digest is what the settings take."""
    import json

    made = [json.loads(CliRunner().invoke(app, ["relay-token", "--json"]).output) for _ in range(2)]
    assert made[0]["token"] != made[1]["token"]
    assert make_digest(made[0]["token"]) == made[0]["digest"]
    assert read({"token": [made[0]["digest"]]}).token == (made[0]["digest"],)
    text = CliRunner().invoke(app, ["relay-token"]).output
    assert "sha256:" in text
