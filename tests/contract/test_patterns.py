"""Texts made from regular expressions."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.patterns import MAX_TEXT, PatternError, text_maker
from tests.support.contract import property_test

SIMPLE = [
    "[A-Z]{3}",
    "",
    "abc",
    r"ORD-\d{6}",
    r"[a-z0-9._-]+@[a-z]+\.(com|org)",
    r"(?:EU|US)(-[A-Z]{2})?",
    r"^\w+$",
    r"[^\s,]{2,5}",
    r"[^a]b",
    r"\D\S\W",
    r"(\d)(\w)\1\2",
    r"(?i)abc|def",
    r"(?P<year>20\d\d)-(0[1-9]|1[0-2])",
    r"\+?[1-9]\d{1,14}",
    r"[äöü一-丙]*?",
    r"(?>a+)b",
    r"a.c",
    r"[\d\w]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}",
    r"[\ud000-\ue000]",
]
# Atoms of which a pattern of any make is built.
ATOMS = st.sampled_from(["a", "Z", "7", r"\.", r"\d", r"\w", r"\s", "[a-f]", "[^a-f]", r"[\d_]", ".", "(?:x|yz)", "(q)"])
PATTERNS = st.lists(
    st.tuples(ATOMS, st.sampled_from(["", "?", "*", "+", "{2}", "{1,3}", "{2,}"])).map("".join), min_size=1, max_size=6
).map("".join)


class TestTexts:
    @pytest.mark.parametrize("pattern", SIMPLE)
    def test_a_text_matches_its_pattern(self, pattern: str) -> None:
        """Every one of a hundred, as the whole of it."""
        make, random = text_maker(pattern), Random(7)
        texts = [make(random, 4) for _ in range(100)]
        assert [text for text in texts if not re.fullmatch(pattern, text)] == []
        assert "".join(texts).encode().decode() == "".join(texts)  # no half of a surrogate pair

    @property_test(300)
    @given(PATTERNS | st.tuples(PATTERNS, PATTERNS).map("|".join))
    def test_a_text_of_any_pattern_matches(self, pattern: str) -> None:
        """Characters, classes, groups, choices and repetitions in any order."""
        make, random = text_maker(pattern), Random(7)
        assert all(re.fullmatch(pattern, make(random, 3)) for _ in range(5))

    def test_the_same_source_gives_the_same_texts(self) -> None:
        """Randomness comes from the caller alone."""
        make = text_maker("[A-Za-z0-9]{10}")
        assert make(Random(1), 4) == make(Random(1), 4) != make(Random(2), 4)

    def test_an_open_repetition_repeats_as_often_as_the_spread_says(self) -> None:
        """From its least to so many more."""
        make, random = text_maker("a{2,}"), Random(7)
        assert {len(make(random, 3)) for _ in range(100)} == {2, 3, 4, 5}

    def test_looking_around_adds_no_character(self) -> None:
        """So that a text need not match, and its reader checks."""
        assert text_maker(r"(?=\d)a\b")(Random(7), 4) == "a"


class TestRefused:
    @pytest.mark.parametrize(
        ("pattern", "words"),
        [
            (r"(a)?(?(1)b|c)", "groupref_exists is not supported"),
            (r"[^\s\S]", "a class holds no character"),
            ("a{20000}", f"it asks for more than {MAX_TEXT} characters"),
            ("((a{1000}){1000}){1000}", f"it asks for more than {MAX_TEXT} characters"),
            ("((){10000}){10000}", f"it asks for more than {MAX_TEXT} characters"),
            ("(", "missing \\), unterminated subpattern"),
        ],
    )
    def test_what_can_not_be_made_is_said(self, pattern: str, words: str) -> None:
        """In a moment, however large the text would be."""
        with pytest.raises(PatternError, match=words):
            text_maker(pattern)(Random(7), 4)
