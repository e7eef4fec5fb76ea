"""What a conversation is about: the options it lists, the words and media of its last user message, tools' results.

What passes in are messages; what comes out is a `Subject`, from which every kind of answer is made. The text that lists
options is not part of what they are chosen by: else "one of: billing, other" would always speak for billing. Nor is the
schema that a prompt spells out. It does not know replies, nor what JSON Schemas mean.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

from batchchat.serve.inlineschema import InlineSchema, find_inline_schema
from batchchat.serve.media import Medium
from batchchat.serve.message import Message
from batchchat.serve.options import Listing, find_listing
from batchchat.serve.schema import Schema
from batchchat.serve.thesaurus import FALLBACK_NAMES, NEGATIVE, POSITIVE, Concept, concepts_named, hits
from batchchat.serve.words import first_sentence, key_words, label_stems, normalised, shortened, stem, words

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
# Looked for before anything slower is: hardly any text has it, as "schema" or as "Schema".
_SCHEMA_WORD = "chema"
# A message that corrects an answer says nothing of what it should be about.
_CORRECTION = re.compile(
    r"\b(?:fit|match|meet|valid)\w*\b[^\n]{0,60}\bJSON[ -]?Schema\b|\bcorrected JSON\b", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.-])-?\d{1,15}(?:\.\d{1,6})?(?![\w])")
# Says nothing of a label's meaning when it stands in its name.
_VAGUE = frozenset(map(stem, ("and", "the", "of", "issue", "request", "problem", "is", "has", "in")))


@dataclass(frozen=True)
class Subject:
    """The last user message without its instruction, the instruction, and the options that the conversation lists.

    `schema` is the one that a prompt has in its text. `results` is what tools have said, when theirs is the last word.
    """

    text: str
    instruction: str
    options: tuple[str, ...]
    media: tuple[Medium, ...] = ()
    results: tuple[str, ...] = ()
    schema: Schema | None = None

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

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the first medium, by names of properties."""
        return self.media[0].facts if self.media else {}

    def hash(self, salt: str = "") -> int:
        """Return a number that is always the same for this text and salt."""
        return int.from_bytes(hashlib.blake2b(f"{salt}\0{self.text}".encode(), digest_size=6).digest())


def subject_of(messages: Sequence[Message]) -> Subject:
    """Return what these messages are about; there is at least one."""
    last = last_user_message(messages)
    inline = find_inline_schema(last.text) if _SCHEMA_WORD in last.text else None
    text = _both_ends(last.text if inline is None else inline.text)
    system = "\n".join([message.text[:_READ_CHARS] for message in messages if message.role == "system"])
    subject = _worded(text, system, messages)
    if len(messages) > 1 and inline is None:
        inline = _first_inline_schema(messages)
    results = _results(messages) if messages[-1].role == "tool" else ()
    if inline is None and not results and not last.media:
        return subject
    return replace(subject, media=last.media, results=results, schema=inline.schema if inline else None)


def _worded(text: str, system: str, messages: Sequence[Message]) -> Subject:
    listing = find_listing(system[: 2 * _READ_CHARS])
    if listing is None and (own := find_listing(text)) is not None:
        return Subject(*_without_listing(text, own, system), own.options)
    listing = listing or _first_listing(message.text for message in messages if message.role == "user")
    return Subject(*_without_task(text, system), listing.options if listing else ())


def last_user_message(messages: Sequence[Message]) -> Message:
    """Return the last message of the user that is more than a correction; without a user, the last of all."""
    from_user = [message for message in messages if message.role == "user"]
    if len(from_user) > 1 and _CORRECTION.search(from_user[-1].text[:_READ_CHARS]):
        from_user.pop()
    return from_user[-1] if from_user else messages[-1]


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


def _both_ends(text: str) -> str:
    return text if len(text) <= 2 * _READ_CHARS else f"{text[:_READ_CHARS]}\n{text[-_READ_CHARS:]}"


def _first_inline_schema(messages: Sequence[Message]) -> InlineSchema | None:
    for message in messages:
        if _SCHEMA_WORD in message.text and message.role in ("system", "user"):
            found = find_inline_schema(message.text)
            if found is not None:
                return found
    return None


def _results(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what the tools said after everybody else."""
    from_tools = takewhile(lambda message: message.role == "tool", reversed(messages))
    return tuple(shortened(message.text.strip(), _READ_CHARS) for message in from_tools)[::-1]


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
