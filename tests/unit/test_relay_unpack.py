"""Unpacking a body: what comes out is what went in, within bounds of bytes and of work."""

import gzip
import random
import time
import zlib
from typing import Final

import pytest

from eventpost.relay.body import NOT_PACKED, Reader

BYTES_MAX: Final = 3_500_000
NOISE: Final = random.Random(4).randbytes(200_000)


@pytest.fixture
def reader() -> Reader:
    """Return a reader with the usual bounds."""
    return Reader(body_bytes_max=BYTES_MAX, bodies_bytes_max=BYTES_MAX, timeout_s=1.0)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
@pytest.mark.parametrize("plain", [NOISE, bytes(200_000)], ids=["noise", "zeros"])
def test_any_size(reader: Reader, plain: bytes, size: int) -> None:
    """Whatever its size, packed in one member or several, as zlib's format with its frame or without."""
    body = plain[:size]
    bare = zlib.compressobj(wbits=-15)
    assert reader.unpack(gzip.compress(body), b"gzip") == body
    assert reader.unpack(gzip.compress(body[: size // 2]) + gzip.compress(body[size // 2 :]), b"x-gzip") == body
    assert reader.unpack(zlib.compress(body), b"deflate") == body
    assert reader.unpack(bare.compress(body) + bare.flush(), b"deflate") == body


@pytest.mark.parametrize("cut", [1, 8, 9, 70_000, 150_000])
def test_an_end_that_is_missing(reader: Reader, cut: int) -> None:
    """What ends too early is not taken for a whole, wherever it ends; nor is what something follows."""
    packed = gzip.compress(NOISE)
    assert reader.unpack(packed[:-cut], b"gzip") == NOT_PACKED
    assert reader.unpack(packed + packed[:cut], b"gzip") == NOT_PACKED
    assert reader.unpack(zlib.compress(NOISE) + bytes(cut), b"deflate") == NOT_PACKED


@pytest.mark.parametrize("behind", [b"\x1f\x8b" + bytes(3_400_000), gzip.compress(NOISE) * 16], ids=["junk", "noise"])
def test_the_work_is_bounded(reader: Reader, behind: bytes) -> None:
    """Hundreds of empty members in front cost nothing much: what lies behind is not copied for each of them."""
    began = time.thread_time()
    reader.unpack(gzip.compress(b"") * 900 + behind, b"gzip")
    assert time.thread_time() - began < 0.4
