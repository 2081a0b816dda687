"""How deeply an event may be nested is one number for everybody who judges it, and no decoder's own bound comes before it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ecomflow.contract.check import Tally, check_lines
from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.contract.lines import read_lines
from ecomflow.contract.nesting import MAX_DEPTH
from ecomflow.contract.samples import read_samples
from ecomflow.deadletters.merge_patch import patched, read_patch
from ecomflow.deadletters.replay import refusals
from ecomflow.errors import ConfigError
from ecomflow.generator.recorded import recorded_events
from ecomflow.ui.views.payload import shown_payload
from tests.support.contract import NOW, SHOP, encoded, inventory, number
from tests.support.dead_letters import letter, today

# A command's own frames, and those of Beam between a worker's first and a step's: far fewer.
FRAMES = 300


def event(depth: int) -> bytes:
    """A valid event of so many levels, itself the first, in a field that the contract does not name."""
    inner = depth - 1
    return encoded(inventory(timestamp=today(), new=number("[" * inner + "]" * inner)))


def deep(frames: int, work: Callable[[], bool]) -> bool:
    """``work()``, called from so many frames further down."""
    return work() if frames == 0 else deep(frames - 1, work)


def pipeline(data: bytes) -> bool:
    return not any(part.refused for part in Codec(SHOP).decode([Message(data, {}, "1", 0)], NOW).parts)


def learned(data: bytes) -> bool:
    """The pipeline that has seen the field before, so that its fast path reads it."""
    codec = Codec(SHOP)
    codec.decode([Message(event(2), {}, "1", 0)], NOW)
    return not any(part.refused for part in codec.decode([Message(data, {}, "1", 0)], NOW).parts)


def contract_check(data: bytes) -> bool:
    return not list(check_lines([data], "file", datetime.now(UTC), Codec(SHOP), Tally()))


def replay(data: bytes) -> bool:
    return not refusals([letter(data, "$: x", event_id="E-1")], Codec(SHOP), datetime.now(UTC)).failing


def replay_of_a_patch(data: bytes) -> bool:
    return not refusals([letter(data, "$: x", event_id="E-1")], Codec(SHOP), datetime.now(UTC), {"reason": "sale"}).failing


def patch(data: bytes) -> bool:
    return patched(data, {"a": 1}) is not None


def publish_file(data: bytes) -> bool:
    """Whatever it is, it is published; the ledger knows the type of what the pipeline takes."""
    (found,) = recorded_events([data], SHOP)
    return found.event_type == "inventory"


def message_in_a_file(data: bytes) -> bool:
    (found,) = read_lines([b'{"data":' + data + b',"attributes":{"a":"b"}}'])
    return found.attributes == {"a": "b"}


def contract_new(data: bytes) -> bool:
    try:
        read_samples([data], "inventory", "event_type")
    except ConfigError:
        return False
    return True


def page(data: bytes) -> bool:
    return len(shown_payload(data.decode(), "$").pieces[0].text) > len(data)  # indented, as JSON is


JUDGES = [
    pipeline,
    learned,
    contract_check,
    replay,
    replay_of_a_patch,
    patch,
    publish_file,
    message_in_a_file,
    contract_new,
    page,
]


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.__name__)
@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 979, 5_000, 200_000])
def test_it_is_the_same_for_each(judge: Callable[[bytes], bool], depth: int) -> None:
    """Also where Python's stack is half full."""
    assert deep(FRAMES, lambda: judge(event(depth))) is (depth <= MAX_DEPTH)


def test_a_patch_has_the_same_bound(tmp_path: Any) -> None:
    """Applying it goes down as deep as it does."""
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        (tmp_path / f"{depth}.json").write_bytes(b'{"a":' * depth + b"1" + b"}" * depth)
    taken = read_patch(tmp_path / f"{MAX_DEPTH}.json")
    assert patched(b"{}", taken) is not None
    with pytest.raises(ConfigError, match=f"expected at most {MAX_DEPTH} levels"):
        read_patch(tmp_path / f"{MAX_DEPTH + 1}.json")


def test_pythons_own_bound_is_the_usual_one() -> None:
    """Else these tests would prove less than they say."""
    assert sys.getrecursionlimit() == 1000
