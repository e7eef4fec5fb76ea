"""Read a text as a person would skim it: its first sentence, a place it names, the options it lists."""

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W_]")
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[\r\n\u3002\uff01\uff1f]")
_MAX_SENTENCE = 160
_PLACE = re.compile(r"\b(?:in|for|at|near|of|from|to) ((?:[A-Z][\w'-]*(?:, | )?)+)")
# A colon, a bracket or a word of its own stands before the options.
_LEAD = re.compile(
    r"\b(?=[acelmoprs])(?:"
    r"(?:one of|one word|labels?|categories|options|classes|choose|pick|select)\b[^.:\n(\[]{0,40}[:(\[]|one of"
    r"|(?:classify|label|rate|mark|sort)\b[^.:\n]{0,60}? (?:as|into)|(?:answer|reply|respond)(?: only)? with)",
    re.IGNORECASE,
)
_BULLETS = re.compile(r"\s*(?:\n *[-*] [^\n]*)+")
_SEPARATOR = re.compile(r"\s*[,|]\s*(?:or |and )?|\s+or\s+")
_QUOTES = " \"'`*\u201c\u201d)]"
_OPTION = re.compile(r"\w[\w&/-]*(?: [\w&/-]+){0,2}")
_MAX_LIST_CHARS = 600


def first_sentence(text: str) -> str:
    """Return the first sentence with words in it, on one line of printable characters, cut to whole words."""
    head = text[: _MAX_SENTENCE * 8]
    start = 0
    for end in _SENTENCE_END.finditer(head):
        if _WORD.search(head, start, end.end()):
            head = head[: end.end()]
            break
        start = end.end()
    line = " ".join("".join(char if char.isprintable() else " " for char in head[start:]).split())
    if len(line) > _MAX_SENTENCE:
        line = line[: _MAX_SENTENCE + 1].rpartition(" ")[0] or line[:_MAX_SENTENCE]
    return line if _WORD.search(line) else ""


def named_place(text: str) -> str | None:
    """Return the first name in capitals after a word such as "in"."""
    found = _PLACE.search(text)
    return found[1].strip(", ") if found else None


@lru_cache(maxsize=64)
def listed_options(text: str) -> tuple[tuple[str, ...], str]:
    """Return the options that a prompt lists, and the prompt without them; no options and the text if it lists none."""
    for lead in _LEAD.finditer(text):
        rest = text[lead.end() : lead.end() + _MAX_LIST_CHARS]
        bullets = _BULLETS.match(rest)
        if bullets:
            end = bullets.end()
            options = [re.split(r":| - |\(", line.strip(" -*"))[0] for line in bullets[0].strip().split("\n")]
        else:
            end = re.search(r"[.;?!\n)\]](?=\s|$)|$", rest).start()  # type: ignore[union-attr]  # "$" is always found
            options = _SEPARATOR.split(rest[:end])
        options = [option.strip(_QUOTES) for option in options]
        if len(options) > 1 and all(_OPTION.fullmatch(option) for option in options):
            return tuple(options), f"{text[: lead.start()]} {text[lead.end() + end + 1 :]}"
    return (), text
