"""Plain answers: an option, a first sentence, or a line that says what it is. Also the objects of `json_object`.

What passes in is a `Subject`; what comes out is text or a small object, always the same for the same subject. It never
pretends to be a language model: what is neither an option nor a quotation begins with "[stand-in]". It does not know
HTTP or JSON Schemas.
"""

import re
from typing import Any

from batchchat.serve.options import find_keys
from batchchat.serve.subject import Subject, best_option
from batchchat.serve.words import normalised

MARK = "[stand-in]"
_SUMMARY = ("summar", "tl;dr", "zusammenfass", "resum", "headline", "in one sentence")
_TRANSLATION = ("translat", "ubersetz", "uebersetz", "tradui", "traduc", "traduz")
_NUMBER_WORDS = r"\d{1,2}|two|three|four|five|ten"
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}
_EXAMPLES = {
    "colo": ("red", "green", "blue", "yellow", "orange", "purple", "black", "white", "brown", "pink"),
    "fruit": ("apple", "pear", "plum", "cherry", "banana", "orange", "lemon", "grape", "melon", "fig"),
    "animal": ("cat", "dog", "horse", "cow", "sheep", "owl", "fox", "hare", "trout", "bee"),
    "planet": ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"),
    "countr": ("France", "Japan", "Kenya", "Peru", "Canada", "India", "Norway", "Chile", "Ghana", "Fiji"),
    "cit": ("Paris", "Tokyo", "Nairobi", "Lima", "Toronto", "Mumbai", "Oslo", "Accra", "Rome", "Quito"),
}


def plain_answer(subject: Subject) -> str:
    """Return the text that answers a subject: exactly one option, when the conversation lists some."""
    if subject.options:
        return best_option(subject.options, subject)
    if subject.results:
        return f"{MARK} The {'tools say' if len(subject.results) > 1 else 'tool says'}: {'; '.join(subject.results)}"
    if subject.media:
        seen = " ".join(medium.sentence for medium in subject.media)
        return f"{MARK} {seen} {_quotation(subject)}" if subject.sentence else f"{MARK} {seen}"
    if not subject.sentence:
        return f"{MARK} The message has no words."
    task = normalised(subject.instruction)
    if any(word in task for word in _TRANSLATION):
        return f"{MARK} Not translated, as this is no language model.{_key_words(subject)}"
    if any(word in task for word in _SUMMARY):
        return subject.sentence
    return f"{MARK} {_quotation(subject)}"


def object_answer(subject: Subject) -> dict[str, Any]:
    """Return the object that answers a subject: with the keys that the prompt names, as `items`, or as an answer."""
    keys = find_keys(subject.instruction) or find_keys(subject.text)
    if keys:
        return {key: _value_of(key, subject) for key in keys}
    items = _items(subject)
    if items:
        return {"items": items}
    return {"answer": plain_answer(subject), "keywords": list(subject.key_words)}


def text_for(name: str, subject: Subject, variant: int = 0) -> str:
    """Return a text for a property of this name; variants 0, 1, 2... differ as long as the subject has words."""
    folded = name.casefold()
    if variant == 0 and re.search(r"title|headline|subject|heading", folded):
        return " ".join(subject.sentence.split()[:8]) or "untitled"
    if variant == 0 and "sentiment" in folded:
        return best_option(("positive", "negative", "neutral"), subject)
    if variant == 0 and re.search(r"lang(uage)?(_|$)", folded):
        return best_option(("en", "de", "fr", "es", "pt", "it", "ja"), subject)
    if re.search(r"tag|keyword|topic|word|label|categor|item|term|entit", folded):
        said = subject.key_words or ("empty",)
        return said[variant % len(said)] + (f" {variant}" if variant >= len(said) else "")
    return (subject.sentence or f"no {name or 'text'}") + (f" ({variant})" if variant else "")


def _quotation(subject: Subject) -> str:
    stop = "" if subject.sentence[-1] in ".!?" else "."
    return f"{subject.sentence}{stop}{_key_words(subject)}"


def _key_words(subject: Subject) -> str:
    return f" Key words: {', '.join(subject.key_words)}." if subject.key_words else ""


def _value_of(key: str, subject: Subject) -> Any:
    if key.casefold() in subject.facts:
        return subject.facts[key.casefold()]
    if key.casefold() in ("label", "category", "answer", "class") and subject.options:
        return best_option(subject.options, subject)
    if re.search(r"keywords|tags|topics|items|list", key.casefold()):
        return list(subject.key_words)
    return text_for(key, subject)


def _items(subject: Subject) -> list[str]:
    """Return what "List 3 colours as a JSON array" asks for, or nothing when nothing of the kind is asked."""
    for text in (subject.instruction, subject.text):
        asked = re.search(r"\b(?:list|array|name|give me)\b", text[:400], re.IGNORECASE)
        count = re.search(rf"\b({_NUMBER_WORDS})\s+(\w+)", text[:400], re.IGNORECASE)
        if asked and count:
            number = _COUNTS.get(count[1].casefold()) or int(count[1])
            return _examples(count[2].casefold(), number, subject)
    return []


def _examples(noun: str, count: int, subject: Subject) -> list[str]:
    known = next((examples for start, examples in _EXAMPLES.items() if noun.startswith(start)), subject.key_words)
    return [known[index] if index < len(known) else f"{noun} {index + 1}" for index in range(count)]
