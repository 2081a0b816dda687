"""The first bytes of a document in; what it is, where that is not JSON in UTF-8 but something known, out. Pure.

A JSON decoder says only that the character at byte 0 is invalid.
"""

from __future__ import annotations

from typing import NamedTuple


class Encoding(NamedTuple):
    """``name`` follows "got"; ``decode`` is the shell command that turns a file of it into UTF-8, None where there is none."""

    name: str
    decode: str | None


_UTF_16 = Encoding("UTF-16", "iconv -f UTF-16 -t UTF-8")
_UTF_32 = Encoding("UTF-32", "iconv -f UTF-32 -t UTF-8")
_STARTS = (
    (b"\xef\xbb\xbf", Encoding("UTF-8 with a byte order mark", "tail -c +4")),
    (b"\xff\xfe\x00\x00", _UTF_32),
    (b"\x00\x00\xfe\xff", _UTF_32),
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"\x1f\x8b", Encoding("data compressed with gzip", "gunzip -c")),
    (b"\x28\xb5\x2f\xfd", Encoding("data compressed with zstd", "zstd -dc")),
    (b"PK\x03\x04", Encoding("a ZIP archive", "unzip -p")),
    (b"Obj\x01", Encoding("an Avro file", None)),
    (b"PAR1", Encoding("a Parquet file", None)),
)
# JSON begins with two ASCII characters, or with one where that is all: which of its first four bytes are zero says the width and
# the order. https://www.rfc-editor.org/rfc/rfc4627#section-3
_ZEROS = {
    (True, True, True, False): Encoding("UTF-32 without a byte order mark", "iconv -f UTF-32BE -t UTF-8"),
    (False, True, True, True): Encoding("UTF-32 without a byte order mark", "iconv -f UTF-32LE -t UTF-8"),
    (True, False, True, False): Encoding("UTF-16 without a byte order mark", "iconv -f UTF-16BE -t UTF-8"),
    (False, True, False, True): Encoding("UTF-16 without a byte order mark", "iconv -f UTF-16LE -t UTF-8"),
}


def encoding_of(data: bytes) -> Encoding | None:
    """What ``data`` is, if its first bytes are those of a known encoding or format other than UTF-8."""
    for start, encoding in _STARTS:
        if data.startswith(start):
            return encoding
    return _ZEROS.get(tuple(byte == 0 for byte in data[:4]))  # type: ignore[arg-type]  # any other length is no key
