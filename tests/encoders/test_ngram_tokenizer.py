from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlib.encoders import ngram_tokenizer
from moonlib.encoders.ngram_tokenizer import buckets_of, encode, features

WIDE = 2**31
"""So many buckets that no two features of these tests share one."""


def crc32(data: bytes) -> int:
    """CRC-32 bit by bit, of the polynomial 0x04C11DB7 in reversed order."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("cups", [4], ["<cups>", "<cup", "cups", "ups>"]),
        ("cup", [2, 4], ["<cup>", "<c", "cu", "up", "p>", "<cup", "cup>"]),
        ("T-Shirt", [], ["<t-shirt>"]),
        ("blue-green -- pre- 5.5", [], ["<blue-green>", "<pre>", "<5>", "<5>"]),
        ("ＩＰｈｏｎｅ15手机壳", [], ["<iphone15>", "手", "手机", "机", "机壳", "壳"]),
        ("赤いカップ・皿", [], ["赤", "赤い", "い", "いカ", "カ", "カッ", "ッ", "ップ", "プ", "皿"]),
        ("snake_case", [], ["<snake>", "<case>"]),
        ("Синяя кружка, قميص", [], ["<синяя>", "<кружка>", "<قميص>"]),
        ("हिन्दी कमीज़", [], ["<हिन्दी>", f"<{unicodedata.normalize('NFKC', 'कमीज़')}>"]),
        ("머그컵", [3], ["<머그컵>", "<머그", "머그컵", "그컵>"]),
        ("🔥 !", [4], ["🔥", "!"]),
        ("a 🔥", [], ["<a>"]),
        (" \t\u3000", [4], []),
    ],
)
def test_features(text: str, n: list[int], expected: list[str]) -> None:
    assert list(features(text, n)) == expected


@given(st.text(max_size=40), st.lists(st.integers(1, 5), max_size=3))
def test_buckets_are_those_of_the_distinct_features_in_their_order(text: str, n: list[int]) -> None:
    expected: list[int] = []
    for feature in features(text, n):
        number = crc32(feature.encode()) % 97
        if number not in expected:
            expected.append(number)
    assert buckets_of(text, n, 97, 1000) == expected
    assert buckets_of(text, n, 97, 3) == expected[:3]
    assert bool(expected) == bool(text.strip())


def test_what_is_typed_wrong_shares_most_of_what_is_right() -> None:
    right, wrong, other = (
        set(buckets_of(word, [3, 4], WIDE, 256)) for word in ("headphones", "headphnes", "tablecloth")
    )
    assert len(right & wrong) > len(right) / 2 and not right & other


def test_a_text_that_no_file_could_hold_is_read_nonetheless() -> None:
    assert len(buckets_of("mug \ud83d", [4], WIDE, 256)) == 3


def test_fills_up_with_zeros() -> None:
    ids, mask = encode(["cup", "", "a b"], [], 1000, 256)
    cup, a, b = (crc32(each) % 1000 for each in (b"<cup>", b"<a>", b"<b>"))
    assert ids == [[cup, 0], [0, 0], [a, b]]
    assert mask == [[True, False], [False, False], [True, True]]
    assert encode([], [4], 1000, 256) == ([], []) and encode([""], [4], 1000, 256) == ([[0]], [[False]])


def test_ids_depend_on_nothing_but_the_text_and_need_the_standard_library_alone() -> None:
    code = Path(ngram_tokenizer.__file__).read_text() + "\nprint(buckets_of('Red MUG 红色', (4,), 32768, 256))"
    outputs = {
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{buckets_of('Red MUG 红色', (4,), 32768, 256)}\n".encode()}
