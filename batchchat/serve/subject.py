"""What a conversation is about: the options it lists, and the words of its last user message.

What passes in are messages; what comes out is a `Subject`, from which every kind of answer is made. The text that lists
options is not part of what they are chosen by: else "one of: billing, other" would always speak for billing. It does
not know replies or JSON Schemas.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from batchchat.serve.body import Message
from batchchat.serve.options import Listing, find_listing
from batchchat.serve.thesaurus import FALLBACK_NAMES, NEGATIVE, POSITIVE, Concept, concepts_named, hits
from batchchat.serve.words import first_sentence, key_words, label_stems, normalised, stem, words

# Longer texts are read at both ends only: a cell of 5 MB must not hold up the server.
_READ_CHARS = 8_000
_NEGATION = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|cannot|hardly|nicht|kein|keine|keinen|nie|pas|jamais|ne|sin|nunca|nao)|n['\u2019]t)"
    r"[ \t]+([^\W_]+)(?:[ \t]+([^\W_]+))?"
)
_TASK = re.compile(
    r"\s*[^\n:.]{0,60}\b(?:summar|translat|classif|label|describ|extract|rewrit|analy|explain|read|review|repl|answer"
    r"|categori|tl;dr|resum|zusammenfass|uebersetz|übersetz)\w*[^\n:]{0,160}(?::[ \t]*\n?|\n)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.-])-?\d{1,15}(?:\.\d{1,6})?(?![\w])")
# Says nothing of a label's meaning when it stands in its name.
_VAGUE = frozenset(map(stem, ("and", "the", "of", "issue", "request", "problem", "is", "has", "in")))


@dataclass(frozen=True)
class Subject:
    """The last user message without its instruction, the instruction, and the options that the conversation lists."""

    text: str
    instruction: str
    options: tuple[str, ...]

    @cached_property
    def folded(self) -> str:
        """The text, normalised."""
        return normalised(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words of the text, in its order."""
        return words(self.folded)

    @cached_property
    def negated(self) -> frozenset[str]:
        """The stems that stand one or two words after a "not"."""
        return frozenset(stem(word) for pair in _NEGATION.findall(self.folded) for word in pair if word)

    @cached_property
    def stems(self) -> frozenset[str]:
        """The stems of the text."""
        return frozenset(map(stem, self.words))

    @cached_property
    def key_words(self) -> tuple[str, ...]:
        """The words that say most, at most five."""
        return key_words(self.words)

    @cached_property
    def sentence(self) -> str:
        """The first sentence of the text."""
        return first_sentence(self.text)

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The numbers in the text, as written, in its order."""
        return tuple(float(number) for number in _NUMBER.findall(self.text)[:50])

    def hash(self, salt: str = "") -> int:
        """Return a number that is always the same for this text and salt."""
        return int.from_bytes(hashlib.blake2b(f"{salt}\0{self.text}".encode(), digest_size=6).digest())


def subject_of(messages: Sequence[Message]) -> Subject:
    """Return what these messages are about; there is at least one."""
    last = _last_user_text(messages)
    system = "\n".join(message.text[:_READ_CHARS] for message in messages if message.role == "system")
    listing = find_listing(system[: 2 * _READ_CHARS])
    if listing is None and (own := find_listing(last)) is not None:
        return Subject(*_without_listing(last, own, system), own.options)
    listing = listing or _first_listing(message.text for message in messages if message.role == "user")
    return Subject(*_without_task(last, system), listing.options if listing else ())


def best_option(options: Sequence[str], subject: Subject) -> str:
    """Return the option that the subject's words speak for; else one such as "other"; else one by the text's hash."""
    scores = [_score(option, subject, subject.stems) for option in options]
    best = max(scores)
    if best > 0:
        return options[scores.index(best)]
    named = {next(iter(label_stems(option)), ""): option for option in reversed(options)}
    for name in FALLBACK_NAMES:
        if name in named:
            return named[name]
    return options[subject.hash() % len(options)]


def speaks_for(name: str, subject: Subject) -> bool:
    """Tell whether the subject's words speak for a name such as `is_urgent`; "not urgent" does not."""
    return _score(name, subject, subject.stems - subject.negated) > 0


def _score(option: str, subject: Subject, said: frozenset[str]) -> int:
    stems = label_stems(option) - _VAGUE
    # Names of two letters, such as the language "de", are ordinary words of other languages.
    direct = sum(name in said for name in stems if len(name) > 2 or name.isdigit())
    return 3 * direct + sum(_hits(concept, subject, said) for concept in concepts_named(stems))


def _hits(concept: Concept, subject: Subject, said: frozenset[str]) -> int:
    # "not good" speaks for negative, "not bad" for positive.
    opposite = {id(NEGATIVE): POSITIVE, id(POSITIVE): NEGATIVE}.get(id(concept))
    if opposite is None:
        return hits(concept, said, subject.folded)
    return hits(concept, said - subject.negated, subject.folded) + len(opposite.terms & subject.negated)


def _last_user_text(messages: Sequence[Message]) -> str:
    from_user = [message.text for message in messages if message.role == "user"]
    text = from_user[-1] if from_user else messages[-1].text
    return text if len(text) <= 2 * _READ_CHARS else f"{text[:_READ_CHARS]}\n{text[-_READ_CHARS:]}"


def _first_listing(texts: Iterable[str]) -> Listing | None:
    found = (find_listing(text[: 2 * _READ_CHARS]) for text in texts)
    return next((listing for listing in found if listing is not None), None)


def _without_listing(text: str, listing: Listing, system: str) -> tuple[str, str]:
    """Return the text without the sentence that lists the options, and the instruction: that sentence."""
    rest = f"{text[: listing.start]} {text[listing.end :].lstrip(' .;:?!)]')}".strip()
    instruction = f"{system}\n{text[listing.start : listing.end]}"
    return (rest, instruction) if rest else (text[: listing.start] or text, instruction)


def _without_task(text: str, system: str) -> tuple[str, str]:
    """Return the text without a task that it begins with, such as "Summarise this review:", and the instruction."""
    task = _TASK.match(text)
    if task is not None and text[task.end() :].strip():
        return text[task.end() :].strip(), f"{system}\n{task[0]}"
    if system:
        return text, system
    # Whoever puts the instruction into running text puts it first or last.
    return text, text if len(text) <= 600 else f"{text[:300]}\n{text[-300:]}"
