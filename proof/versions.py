"""The crash tests under every Python that is here: ``python -m proof versions``.

Interpreters are looked for as ``python3.X`` on the path and among pyenv's; ``--python`` names further ones.  Each gets
an environment of its own (``.venv-3.X``), filled by pip with what pyproject.toml asks for, in the newest versions that
there are for it: this is about the interpreter, the pins are ``make test``'s business.  A version that is not here is
named, not passed over.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from .record import ROOT, Figures

WANTED: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")
TELL: Final = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
WAIT_S: Final = 1800


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name interpreters and tests."""
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="one more interpreter")
    parser.add_argument("--only", action="append", choices=WANTED, help="these versions only")
    parser.add_argument("--tests", nargs="+", default=["tests/crash"], help="what pytest is given")


def run(arguments: argparse.Namespace) -> Figures:
    """Run the tests under each; raises SystemExit if one of them fails."""
    here = interpreters(arguments.python)
    figures: dict[str, int | float | str] = {}
    for version in arguments.only or WANTED:
        if version not in here:
            figures[version] = "not here"
            continue
        path, full = here[version]
        print(f"Python {full}", flush=True)
        python = environment(path, version)
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments.tests]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, timeout=WAIT_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
        if done.returncode:
            sys.stderr.write(done.stdout[-10_000:])
            raise SystemExit(f"under Python {full}: {last}\nrepeat it: python -m proof versions --only {version}")
        figures[full] = re.sub(r" in [\d.]+s.*", "", last.strip("= "))
        print(f"  {last}", flush=True)
    return figures


def interpreters(more: list[str]) -> dict[str, tuple[str, str]]:
    """Return what is here: path and full version, by short version.  What was named wins."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [*more, *(shutil.which(f"python{version}") or "" for version in WANTED), sys.executable]
    found: dict[str, tuple[str, str]] = {}
    for path in [*candidates, *sorted(glob.glob(f"{pyenv}/versions/*/bin/python3"))]:
        try:
            told = subprocess.run([path, "-c", TELL], capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # not there, or a shim for a version that isn't
        full = told.stdout.strip()
        found.setdefault(".".join(full.split(".")[:2]), (path, full))
    return found


def environment(path: str, version: str) -> str:
    """Return the interpreter of an environment that has all it takes, made if need be."""
    folder = ROOT / f".venv-{version}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    made_of = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if ready.exists() and ready.read_text(encoding="utf-8") == made_of:
        return str(python)
    subprocess.run([path, "-m", "venv", "--clear", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)  # the first that knows dependency groups
    wanted = ["--group", "dev", "--editable", ".[curl,cli,optimizely,relay]"]
    subprocess.run([*pip, "--prefer-binary", *wanted], cwd=ROOT, check=True)
    Path(ready).write_text(made_of, encoding="utf-8")
    return str(python)
