"""JSON Merge Patch: documents and patches in, patched bytes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecomflow.deadletters.merge_patch import merge_patch, patched, read_patch
from ecomflow.errors import ConfigError

# https://www.rfc-editor.org/rfc/rfc7396#appendix-A, whole
RFC_TABLE = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


class TestMergePatch:
    @pytest.mark.parametrize(("original", "patch", "result"), RFC_TABLE)
    def test_the_table_of_the_rfc(self, original: str, patch: str, result: str) -> None:
        """Each line of RFC 7396's own table."""
        assert merge_patch(json.loads(original), json.loads(patch)) == json.loads(result)
        assert patched(original.encode(), json.loads(patch)) == result.encode()

    def test_the_target_is_not_changed(self) -> None:
        """What is patched stays as it was."""
        target: dict[str, Any] = {"a": {"b": 1}}
        assert merge_patch(target, {"a": {"b": 2}}) == {"a": {"b": 2}}
        assert target == {"a": {"b": 1}}

    @pytest.mark.parametrize(
        "digits", ["1.10", "0.1000000000000000055511151231257827", "1e400", "-0.0", "123456789012345678901234"]
    )
    def test_numbers_keep_their_digits(self, digits: str) -> None:
        """Money passes through no binary float: the digits come out as they went in."""
        assert patched(b'{"price":%b}' % digits.encode(), {"a": 1}) == b'{"price":%b,"a":1}' % digits.encode()

    @pytest.mark.parametrize("data", [b'{"a":', b"\xff", b"", b'{"a":' + b"9" * 5000 + b"}", b"[" * 100_000])
    def test_what_is_no_document_is_not_patched(self, data: bytes) -> None:
        """There is nothing to apply a patch to."""
        assert patched(data, {"a": 1}) is None


class TestReadPatch:
    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("{", "got invalid JSON: Input data was truncated"),
            ("[1]", "expected a JSON object"),
            ("null", "expected a JSON object"),
        ],
    )
    def test_what_is_no_patch_of_an_event_is_refused(self, content: str, sentence: str, tmp_path: Path) -> None:
        """Only an object leaves the rest of an event as it is."""
        (tmp_path / "patch.json").write_text(content)
        with pytest.raises(ConfigError, match=sentence):
            read_patch(tmp_path / "patch.json")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        """The path is named."""
        with pytest.raises(ConfigError, match="can't be read: No such file"):
            read_patch(tmp_path / "patch.json")

    def test_a_number_in_the_patch_keeps_its_digits(self, tmp_path: Path) -> None:
        """A price in a patch is as exact as one in an event."""
        (tmp_path / "patch.json").write_text('{"total_amount": 10.10}')
        assert patched(b'{"total_amount":1}', read_patch(tmp_path / "patch.json")) == b'{"total_amount":10.10}'
