"""A text as words: folded, without accents, stemmed, and the ones that carry its meaning.

What passes in is text of any language; what comes out are words and stems, in the order of the text. It does not know
labels, prompts or what the words are for.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[^\W_]{1,40}")
_COMBINING = re.compile("[\u0300-\u036f\u3099\u309a]")
_SUFFIXES = ("ings", "ing", "edly", "ed", "ies", "es", "en", "er", "s", "e", "y")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[\r\n\u3002\uff01\uff1f]")
_STOP_WORDS = frozenset(
    """about after again also been before being could does done each from further have having here into just more most
    much only other over please same should some such than that their them then there these they this those through
    under until very were what when where which while will with would your yours reply answer label text following
    aber auch dann dass eine einen nicht sich sind wird mais nous vous avec dans pour cette pero como este esta para
    write classify describe summarise summarize translate extract sentence word words""".split()  # noqa: SIM905 - a list of ninety quoted strings is no easier to read
)


def normalised(text: str) -> str:
    """Return the text folded to lower case and without accents."""
    folded = text.casefold()
    if folded.isascii():
        return folded
    return _COMBINING.sub("", unicodedata.normalize("NFKD", folded))


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """Return the part of a word that its forms share, crudely: `charged`, `charges` and `charge` give `charg`."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    # "shipped" and "ship" are one word.
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def words(text: str) -> list[str]:
    """Return the words of a text that is already normalised."""
    return _WORD.findall(text)


@lru_cache(maxsize=1024)
def label_stems(label: str) -> frozenset[str]:
    """Return the stems of the words in a name such as `payment_issue`, `isUrgent` or `Payments & invoices`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return frozenset(stem(word) for word in words(normalised(parted)))


def key_words(text_words: Sequence[str], limit: int = 5) -> tuple[str, ...]:
    """Return the words that say most, the most frequent first, then the first; words that say nothing are left out."""
    said = Counter(text_words)
    meant = [word for word in said if len(word) > 3 and word not in _STOP_WORDS]
    return tuple(sorted(meant, key=said.__getitem__, reverse=True)[:limit])


def first_sentence(text: str, limit: int = 160) -> str:
    """Return the first sentence with words in it, on one line, without control characters, at most `limit` long."""
    head = text[: limit * 8]
    word = _WORD.search(head)
    if word is None:
        return ""
    start = 0
    for end in _SENTENCE_END.finditer(head):
        if end.end() > word.start():
            return _on_one_line(head[start : end.end()], limit)
        start = end.end()
    return _on_one_line(head[start:], limit)


def _on_one_line(text: str, limit: int) -> str:
    head = text[: limit * 2]
    shown = head if head.isprintable() else "".join(char if char.isprintable() else " " for char in head)
    return shortened(" ".join(shown.split()), limit)


def shortened(text: str, limit: int) -> str:
    """Return the text, or its start up to a whole word when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    whole_words = text[: limit + 1].rpartition(" ")[0]
    return (whole_words or text[:limit]).rstrip(" ,;:-")
