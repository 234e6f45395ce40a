"""The official SDKs: how a program is built around the very files of a page, and how it is talked to.

Each language has a folder under ``programs`` with the program and the pinned versions; the files of its page are put
beside them.  All programs are used in one way: ``PROGRAM DATAFILE RELAY_URL``, a token in RELAY_TOKEN.  They say
``ready``, read lines ``FIRST COUNT`` from stdin and for each of these visitors decide once and track once, say ``uuid
UUID`` for each event that the SDK puts into a request, and at the end of stdin close their client and say ``closed``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from interop import pages
from support import missing

PROGRAMS = Path(__file__).parent / "programs"
DATAFILE = pages.ROOT / "src" / "eventpost" / "demo_datafile.json"
BUILD_TIMEOUT_S = 240.0
START_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 45.0
POLL_S = 0.01
GO_MODULE = "github.com/optimizely/go-sdk/v2"


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one step of a build; what it fetches may be slow, so it is ended after a while, with a message."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{' '.join(command)}: not done after {BUILD_TIMEOUT_S:.0f} s; is a package registry slow?")


def done(step: subprocess.CompletedProcess[str]) -> None:
    """Fail with the step's own words if it failed."""
    assert step.returncode == 0, f"{' '.join(step.args)}\n{step.stdout[-4000:]}\n{step.stderr[-4000:]}"


def tool(name: str, lowest: int = 0, said: str = "") -> str:
    """Return where a program is; without it, or below a version, the test is skipped, and in CI it fails.

    ``said``: the option that makes it say its version, and a pattern for the number in what it says, after a blank.
    """
    path = shutil.which(name)
    if path is None:
        missing(name)
    if said:
        option, _, pattern = said.partition(" ")
        answer = run([path, option], Path.cwd())
        found = re.search(pattern, answer.stdout + answer.stderr)
        if found is None or int(found[1]) < lowest:
            missing(f"{name}, a later version than {(answer.stdout + answer.stderr).strip()!r}")
    return path


def build_go(folder: Path) -> list[str]:
    """Compile; a refusal by the module proxy is not ours to mend, so it skips, in CI, too."""
    go = tool("go", 21, r"version go1\.(\d+)")
    step = run([go, "build", "-o", "program", "."], folder)
    if GO_MODULE in step.stderr and "403 Forbidden" in step.stderr:
        pytest.skip(f"the module proxy refuses {GO_MODULE}: docs/sdks/go.md can't be run here")
    done(step)
    return [str(folder / "program")]


def build_javascript(folder: Path) -> list[str]:
    """Install what the lock file says."""
    node, npm = tool("node", 18, r"--version v(\d+)"), tool("npm")
    done(run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"], folder))
    return [node, "main.mjs"]


def build_java(folder: Path) -> list[str]:
    """Fetch the jars with Maven, and compile with all of javac's warnings as errors."""
    java, javac, mvn = tool("java"), tool("javac", 11, r"-version javac (\d+)"), tool("mvn")
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    done(run([mvn, "-B", "-q", "-ntp", copy, f"-DoutputDirectory={folder / 'lib'}"], folder))
    sources = [path.name for path in folder.glob("*.java")]
    lint = ["-Xlint:all,-classfile,-processing", "-Werror", "-encoding", "UTF-8"]
    done(run([javac, *lint, "-cp", "lib/*", "-d", "classes", *sources], folder))
    return [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", "classes:lib/*", "Main"]


def build_python(_: Path) -> list[str]:
    """Nothing to do: the SDK is what our own tests stand on."""
    return [sys.executable, "main.py"]


BUILDS: dict[str, Callable[[Path], list[str]]] = {
    "go": build_go,
    "javascript": build_javascript,
    "java": build_java,
    "python": build_python,
}


class Sdk:
    """One language's program, built in ``folder``."""

    def __init__(self, language: str, folder: Path) -> None:
        self.language = language
        self.folder = folder
        shutil.copytree(PROGRAMS / language, folder, dirs_exist_ok=True)
        for name, text in pages.files(language).items():
            (folder / name).write_text(text, "utf-8")
        self.command = BUILDS[language](folder)

    def start(self, url: str, environment: Mapping[str, str] | None = None) -> Program:
        """Start the program in front of ``url``; it has a client when this returns."""
        return Program([*self.command, str(DATAFILE), url], self.folder, environment or {})


class Program:
    """A running program; ends with the ``with`` block."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._errors = (folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            self._wait_for("ready", START_TIMEOUT_S)
        except BaseException:
            self.end()
            raise

    @property
    def uuids(self) -> set[str]:
        """The uuids of all events that the SDK has put into requests."""
        return {line.removeprefix("uuid ") for line in list(self.lines) if line.startswith("uuid ")}

    def use(self, first: int, count: int) -> None:
        """Let these visitors come: one decision and one conversion each."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first} {count}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Let the program close its client and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(CLOSE_TIMEOUT_S) == 0, self._said()
        self._reader.join(5)
        assert self.lines[-1] == "closed", self._said()

    def end(self) -> None:
        """Leave nothing running."""
        self._process.kill()
        self._process.wait(10)
        self._reader.join(5)
        for one in (self._process.stdin, self._process.stdout, self._errors):
            if one is not None:
                one.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self.lines.append(line.strip())

    def _wait_for(self, line: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while line not in self.lines:
            assert self._process.poll() is None, self._said()
            assert time.monotonic() < deadline, self._said()
            time.sleep(POLL_S)

    def _said(self) -> str:
        self._errors.seek(0)
        return f"{self.lines[-20:]}\n{self._errors.read()[-4000:].decode(errors='replace')}"
