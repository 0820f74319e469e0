"""Words and character n-grams of a text as numbers. It imports the standard library alone, so that it can travel."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from zlib import crc32

# Scripts without blanks between words: Han, kana.
_UNSPACED = (
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
)
# Vowel signs and accents, such as those of Hindi, which \w leaves out although they stand within a word.
_MARKS = "".join(map(chr, (code for code in range(0x300, 0xAC00) if unicodedata.category(chr(code))[0] == "M")))
_LETTERS = rf"(?:(?![_{_UNSPACED}])[\w{_MARKS}])+"
_RUNS = re.compile(rf"([{_UNSPACED}]+)|({_LETTERS}(?:-{_LETTERS})*)")


def features(text: str, n: Sequence[int] = (4,)) -> Iterator[str]:
    """Yield the words and character n-grams of a text, as they come; some may come again.

    The text is NFKC-normalised (full-width letters, ligatures) and lower-cased. A word is a run of letters, marks and
    digits of any script, with hyphens inside. It stands between ``<`` and ``>``, which tell its n-grams where it begins
    and ends. Of Chinese and Japanese, which have no blanks between words, each character and each two neighbours
    count. A text without any word, such as an emoji, is read by its characters.

    Args:
        text: any text.
        n: lengths of the n-grams.

    Source: Bojanowski et al., 2017 (arXiv 1607.04606), section 3.2 (subwords).

    Example:
        >>> list(features("Red MUG 红色"))
        ['<red>', '<red', 'red>', '<mug>', '<mug', 'mug>', '红', '红色', '色']
    """
    normal = unicodedata.normalize("NFKC", text).lower()
    empty = True
    for run, word in _RUNS.findall(normal):
        empty = False
        if run:
            for place, character in enumerate(run):
                yield character
                if place + 1 < len(run):
                    yield run[place : place + 2]
        else:
            marked = f"<{word}>"
            yield marked
            for length in n:
                for place in range(len(marked) - length + 1):
                    yield marked[place : place + length]
    if empty:
        yield from (character for character in normal if not character.isspace())


def buckets_of(text: str, n: Sequence[int], buckets: int, max_features: int) -> list[int]:
    """Hash the features of a text: which of the buckets are its own.

    Args:
        text: any text.
        n: lengths of the n-grams.
        buckets: how many there are.
        max_features: how many are kept, the first ones.

    Returns:
        Numbers below ``buckets``, each once, in the order in which they first come; none for a blank text. They depend
        on the text and the arguments alone: the same in every process and on every machine.

    Source: Weinberger et al., 2009 (arXiv 0902.2206), section 2 (the hashing trick).

    Example:
        >>> buckets_of("red red", n=[4], buckets=1000, max_features=256)
        [918, 968, 976]
    """
    found: dict[int, None] = {}
    for feature in features(text, n):
        found[crc32(feature.encode("utf-8", "surrogatepass")) % buckets] = None
        if len(found) == max_features:
            break
    return list(found)


def encode(
    texts: Sequence[str], n: Sequence[int], buckets: int, max_features: int
) -> tuple[list[list[int]], list[list[bool]]]:
    """Return `buckets_of` each text, filled up with 0 to the same length, at least 1, and which are no filling."""
    rows = [buckets_of(text, n, buckets, max_features) for text in texts]
    length = max([1, *map(len, rows)])
    ids = [row + [0] * (length - len(row)) for row in rows]
    return ids, [[place < len(row) for place in range(length)] for row in rows]
