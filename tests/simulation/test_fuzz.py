"""Fuzzing, as much of it as a test may cost; ``python -m proof fuzz`` does a million of each."""

from pathlib import Path

import pytest
from proof import fuzz
from proof.fuzz_retry_after import RetryAfterTarget

SEED = 7


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_nothing_is_found(target: str) -> None:
    """Two thousand inputs of each kind, and all that ever failed, keep what the target's oracle asks."""
    corpus, met = fuzz.fuzz(target, 2_000, SEED)
    assert met
    assert corpus == len(list((fuzz.CORPUS / target).glob("*.z")))


class Broken(RetryAfterTarget):
    """A reader with a mistake: a word makes it fail."""

    def check(self, data: bytes) -> None:
        """Fail for that word."""
        if b"GMT" in data:
            raise IndexError("a mistake")


def test_what_is_found_is_kept_small_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that fails is written to the corpus, minimised, and fails there first the next time."""
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setitem(fuzz.TARGETS, "retry_after", Broken)
    with pytest.raises(fuzz.FailedError, match="minimised to 3 bytes"):
        fuzz.fuzz("retry_after", 2_000, SEED)
    [(path, data)] = fuzz.corpus_of("retry_after")
    assert data == b"GMT"
    with pytest.raises(fuzz.FailedError, match=path.name):
        fuzz.fuzz("retry_after", 0, SEED)


def test_a_run_that_met_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in which something that the target is about never happened has tested nothing."""
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setattr(RetryAfterTarget, "make", lambda self, chance: b"120")
    with pytest.raises(fuzz.FailedError, match="there was never: a date, nonsense"):
        fuzz.fuzz("retry_after", 1_000, SEED)


def test_an_input_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input without end is a failure, not a run without end."""

    def spin(self: RetryAfterTarget, data: bytes) -> None:
        while data:
            pass

    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzz, "HANG_S", 0.05)
    monkeypatch.setattr(fuzz, "MINIMISE_S", 0.2)
    monkeypatch.setattr(RetryAfterTarget, "check", spin)
    with pytest.raises(fuzz.FailedError, match="HangsError"):
        fuzz.fuzz("retry_after", 10, SEED)
