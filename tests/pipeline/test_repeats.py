"""Ids in; how many of them were seen before, out."""

from __future__ import annotations

from ecomflow.pipeline.repeats import SeenIds


class TestRepeats:
    def test_each_repeat_is_counted_once(self) -> None:
        """Within a list and across lists; a new id is none."""
        seen = SeenIds()
        assert [seen.repeats_in(ids) for ids in (["a", "b"], ["c"], ["a", "c", "d"], ["e", "e", "e"], [])] == [0, 0, 2, 2, 0]

    def test_it_remembers_a_generation_and_forgets_the_one_before(self) -> None:
        """At least the last ``generation`` ids are known, at most twice as many are kept."""
        seen = SeenIds(generation=3)
        seen.repeats_in(["a", "b", "c"])
        assert seen.repeats_in(["a", "d"]) == 1
        seen.repeats_in(["e", "f"])
        assert seen.repeats_in(["b"]) == 0
        assert seen.repeats_in(["a", "d", "e", "f"]) == 4
