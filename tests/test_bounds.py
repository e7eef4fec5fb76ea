"""What a template may do for one row: nothing endless, nothing huge, nothing of Python, and the same in every run."""

import contextlib
import datetime
import decimal
import json
import re
import subprocess
import sys
import threading
import time
import zoneinfo
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError

from batchchat.errors import TemplateError
from batchchat.prompt.bounds import MAX_CHARACTERS, MAX_DEPTH, MAX_LEVELS, LimitError
from batchchat.prompt.environment import row_environment
from batchchat.prompt.media import MediaFolder, Unremembered
from batchchat.prompt.request import compile_prompt
from batchchat.prompt.template import RequestTemplate, compile_request
from batchchat.records import ChatRequest, Failure, Row
from tests.running import ROOT

STEPS = (
    "the templates of this row take more than 1,000,000 steps (rounds of loops, calls, values looked at); loop over"
    " less, or prepare a column before the run"
)
CHARACTERS = (
    "the templates of this row make more than 67,108,864 characters of text, intermediate ones included; repeat, pad or"
    " join less, or prepare a column before the run"
)
LEVELS = "macros or recursive loops call each other more than 100 levels deep"
DIGITS = "a number has more than 4,200 digits"
DEPTH = "a value is nested more than 200 levels deep"
BERLIN = datetime.datetime(2026, 1, 2, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
ROW: dict[str, Any] = {
    "x": "abc",
    "n": 3,
    "f": 1.5,
    "d": decimal.Decimal("1.5"),
    "l": list(range(1000)),
    "big": "a " * 200_000,
    "s": {"a": 1},
    "b": b"raw",
    "t": BERLIN,
    "naive": BERLIN.replace(tzinfo=None),
}


def _compile(content: str, columns: Mapping[str, Any] = ROW) -> RequestTemplate:
    return compile_request({"model": "m", "messages": [{"role": "user", "content": content}]}, list(columns))


def _content(content: str, values: Mapping[str, Any] = ROW) -> Any:
    return _compile(content, values).render(values)["messages"][0]["content"]


def _grown(start: str, step: str, end: str = "{{ ns.v | length }}") -> str:
    """Return a template that does `step` to `ns.v` a hundred times."""
    return f"{{% set ns = namespace(v={start}) %}}{{% for i in range(100) %}}{step}{{% endfor %}}{end}"


DOUBLED = {
    "tilde": _grown("x", "{% set ns.v = ns.v ~ ns.v %}"),
    "plus": _grown("x", "{% set ns.v = ns.v + ns.v %}"),
    "times": _grown("x", "{% set ns.v = ns.v * 2 %}"),
    "join": _grown("x", "{% set ns.v = [ns.v, ns.v] | join %}"),
    "method join": _grown("x", "{% set ns.v = ns.v.join('aaaa') %}"),
    "replace": _grown("x", "{% set ns.v = ns.v | replace('a', ns.v) %}"),
    "method replace": _grown("x", "{% set ns.v = ns.v.replace('a', ns.v) %}"),
    "set block": _grown("x", "{% set ns.v %}{{ ns.v }}{{ ns.v }}{% endset %}"),
    "percent": _grown("x", "{% set ns.v = '%s%s' % (ns.v, ns.v) %}"),
    "percent by name": _grown("x", "{% set ns.v = '%(a)s%(a)s' % {'a': ns.v} %}"),
    "format": _grown("x", "{% set ns.v = '{0}{0}'.format(ns.v) %}"),
    "format filter": _grown("x", "{% set ns.v = '%s%s' | format(ns.v, ns.v) %}"),
    "list": _grown("[x]", "{% set ns.v = ns.v + ns.v %}"),
    "list times": _grown("[x]", "{% set ns.v = ns.v * 2 %}"),
    "json": _grown("[x]", "{% set ns.v = [ns.v, ns.v] %}", "{{ ns.v | tojson }}"),
    "json in text": _grown("[x]", "{% set ns.v = [ns.v, ns.v] %}", "<{{ ns.v }}>"),
    "text of lists": _grown("[x]", "{% set ns.v = [ns.v, ns.v] %}", "{{ ns.v ~ '' }}"),
    "formatted lists": _grown("[x]", "{% set ns.v = [ns.v, ns.v] %}", "{{ '{}'.format(ns.v) }}"),
    "hashed tuples": _grown("(x,)", "{% set ns.v = (ns.v, ns.v) %}", "{{ {ns.v: 1} }}"),
    "looked up tuples": _grown("(x,)", "{% set ns.v = (ns.v, ns.v) %}", "{{ s[ns.v] }}"),
    "unique tuples": _grown("(x,)", "{% set ns.v = (ns.v, ns.v) %}", "{{ [ns.v] | unique | list }}"),
    "compared lists": _grown(
        "[x], w=[x]", "{% set ns.v = [ns.v, ns.v] %}{% set ns.w = [ns.w, ns.w] %}", "{{ ns.v == ns.w }}"
    ),
    "lists in lists": _grown("[x]", "{% set ns.v = [ns.v, ns.v] %}", "{{ ns.v in [1] }}"),
}
HUGE = {
    "text times": "{{ x * 10**10 }}",
    "list times": "{{ [x] * 10**10 }}",
    "percent width": "{{ '%0999999999d' % n }}",
    "percent star": "{{ '%*d' % (10**9, n) }}",
    "percent precision": "{{ '%.999999999f' % f }}",
    "format filter": "{{ '%0999999999d' | format(n) }}",
    "format width": "{{ '{:>999999999}'.format(n) }}",
    "format nested width": "{{ '{:{w}}'.format(n, w=10**9) }}",
    "format_map": "{{ '{n:>999999999}'.format_map({'n': n}) }}",
    "center": "{{ x.center(10**10) }}",
    "ljust": "{{ x.ljust(10**10) }}",
    "zfill": "{{ x.zfill(10**10) }}",
    "indent": "{{ x | indent(10**10, true) }}",
    "indented lines": "{{ big | replace(' ', '\\n') | indent(10**6) }}",
    "batch": "{{ l | batch(10**10, 'x') | list }}",
    "slice": "{{ l | slice(10**10) | list }}",
    "json indent": "{{ l | tojson(indent=10**9) }}",
    "replaced nothing": "{{ big | replace('', big) }}",
    "characters": "{{ (big * 30) | list }}",
    "words": "{{ ('ab ' * (n * 6666666)).split() | length }}",
    "words from the right": "{{ ('ab ' * (n * 6666666)).rsplit(' ') | length }}",
}
LONG = {
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{{ x }}",
    "literal text": "{% for i in range(90000) %}" + "-" * 2000 + "{% endfor %}{{ x }}",
    "row text": "{% for i in range(90000) %}{{ big }}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}{{ x }}",
    "filtered loop": "{% for i in l if i in l %}{% endfor %}{% for i in l if i in l %}{% endfor %}{{ x }}",
    "search": "{% for i in range(90000) %}{{ 'zz' in big }}{% endfor %}",
    "method": "{% for i in range(90000) %}{{ big.count('b') }}{% endfor %}",
    "slices": "{% for i in range(90000) %}{% set q = big[1:] %}{% endfor %}",
    "filter": "{% for i in range(90000) %}{{ big | upper | length }}{% endfor %}",
    "sort": "{% for i in range(90000) %}{{ l | sort | length }}{% endfor %}",
    "equal": "{% for i in range(90000) %}{{ l == l }}{% endfor %}",
    "arguments": "{% for i in range(1001) %}{% set c = cycler(*l) %}{% endfor %}{{ x }}",
    "map of map": "{% set ns = namespace(v=l) %}{% for i in l %}{% set ns.v = ns.v | map('int') %}{% endfor %}",
    "sum of lists": "{{ ([[n]] * 5000) | sum(start=[]) | length }}",
}


ENDLESS = {**DOUBLED, **HUGE, **LONG}
MEMORY_BYTES = 1024 * 2**20


def _write_endings() -> None:
    """Render every endless template, in a process that has little memory, and write how each ended."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    endings = {}
    for name, content in ENDLESS.items():
        try:
            endings[name] = f"rendered: {str(_content(content))[:80]}"
        except Exception as error:
            endings[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(endings))


@pytest.fixture(scope="module")
def endings() -> dict[str, str]:
    """Return how each endless template ended."""
    call = "from tests import test_bounds; test_bounds._write_endings()"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_endless_template_fails_its_row_in_bounded_memory(endings: dict[str, str], name: str) -> None:
    """Whatever grows, pads, repeats or loops comes to one of two bounds, long before the machine comes to its own."""
    assert endings[name] in (f"LimitError: {STEPS}", f"LimitError: {CHARACTERS}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{{ n ** 99999 }}", DIGITS),
        ("{{ d ** 99999 }}", DIGITS),
        (_grown("n", "{% set ns.v = ns.v * ns.v %}", "{{ ns.v }}"), DIGITS),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(n) }}", LEVELS),
        ("{% for i in l recursive %}{{ loop(l) }}{% endfor %}", LEVELS),
        ("{% block a %}{{ x }}{{ self.a() }}{% endblock %}", LEVELS),
        (_grown("[x]", "{% set ns.v = [ns.v] %}{% set ns.v = [ns.v] %}{% set ns.v = [ns.v] %}", "{{ ns.v }}"), DEPTH),
    ],
)
def test_number_recursion_and_nesting_are_bounded(content: str, message: str) -> None:
    """Each bound has its own message, which says what to do."""
    with pytest.raises(LimitError, match=message) as caught:
        _content(content)
    assert str(caught.value).endswith("or prepare a column before the run")


def test_row_value_nested_too_deep_fails_its_row() -> None:
    """Python's own stack would end sooner in one thread than in another, and the row would ask something else."""
    deepest: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]
    assert _content("{{ v }}", {"v": deepest}) == json.dumps(deepest)
    with pytest.raises(LimitError, match=DEPTH):
        _content("{{ v }}", {"v": [deepest]})
    template = compile_request({"model": "m", "messages": [{"role": "user"}], "p": "{{ v }}"}, ["v"])
    with pytest.raises(LimitError, match=DEPTH):
        template.render({"v": [deepest]})


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('{{ "a" * 10**10 }}', 1, CHARACTERS),
        ('{{ x }}\n{{ "a" * 10**10 }}', 2, CHARACTERS),
        ('{{ x }}\n{% if x %}\n{{ x ~ ("ab" | replace("", "b" * 10**8)) }}{% endif %}', 3, CHARACTERS),
        ("{% set a = [1] * 10**10 %}{{ x }}", 1, STEPS),
        ("{{ 10 ** 99999 }}", 1, None),
        ("{{ '%0999999999d' % 1 }}{{ x }}", 1, CHARACTERS),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", 1, STEPS),
        ("{{ range(10**9) | list }}", 1, "range: (1000000000,) has more than 100,000 numbers; loop over less"),
        ("{{ range(10**30) | list }}", 1, None),
    ],
)
def test_constant_beyond_the_bounds_is_an_error_of_the_job(content: str, line: int, message: str | None) -> None:
    """What no row changes is found before the first row, and never computed when the template is compiled."""
    started = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        _compile(content)
    assert (caught.value.path, caught.value.line) == (("messages", 0, "content"), line)
    assert message is None or caught.value.text == message
    assert time.monotonic() - started < 20


def test_constant_that_fails_otherwise_is_the_rows_failure() -> None:
    """A branch may never be taken: only what goes beyond the bounds is refused ahead of the rows."""
    assert _content("{% if n > 5 %}{{ 1 / 0 }}{% endif %}{{ x }}") == "abc"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{% for i in l %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/3,2/3,3/3"),
        ("{% for i in l | select('odd') %}{{ loop.length }}{{ loop.revindex }} {% endfor %}", "22 21 "),
        ("{% for i in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(1) }}{% endfor %}", "atruebfalseafalse"),
        ("{% for i in l %}{{ loop.previtem | default('-') }}{{ loop.nextitem | default('-') }}{% endfor %}", "-2132-"),
        ("{% for i in [] %}x{% else %}none{% endfor %}", "none"),
        ("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}", "a=1;b=[2];ab"),
        ("{% for k in d.keys() | sort(reverse=true) %}{{ k }}{% endfor %}{{ d.values() | list }}", "ba[1, [2]]"),
        ("{% for i in tree recursive %}<{{ i.n }}{{ loop(i.c) }}>{% endfor %}", "<1<2>><3<4>>"),
        ("{% for i in l if i != 2 %}{{ i }}{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}", "13a.b."),
        ("{% macro m(a, b='-') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(*l[:2]) }}", "1-12"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", "<in>"),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}", "ab"),
        ("{% set j = joiner('|') %}{{ j() }}a{{ j() }}b", "a|b"),
        ("{% filter upper %}a{{ l[0] }}b{% endfilter %}{% set s %}x{{ l[1:] }}{% endset %}{{ s }}", "A1Bx[2, 3]"),
        ("{{ l[::-1] }}{{ 'abc'[1] }}{{ 'abc'[-2:] }}{{ (1, 2)[0] }}", "[3, 2, 1]bbc1"),
        ("{{ l | sum }}{{ [[1], [2]] | sum(start=[]) }}{{ l | join('-') }}{{ t | join(',', 'n') }}", "6[1, 2]1-2-31,3"),
        ("{{ l | batch(2, 0) | list }}{{ l | slice(2) | list }}", "[[1, 2], [3, 0]][[1, 2], [3]]"),
        ("{{ 'a b-c' | title }}{{ 'a b' | wordcount }}{{ 'a\\nb' | indent(2) }}{{ 'a<b' | e }}", "A B-C2a\n  ba&lt;b"),
        ("{{ '%s-%05.1f' | format('a', 2) }}{{ '%(k)s' % {'k': 1} }}{{ '%d%%' % 5 }}", "a-002.015%"),
        ("{{ '{0:>4}|{k!r}|{0}'.format(7, k='v') }}{{ '{a[b]}'.format_map({'a': {'b': 1}}) }}", "   7|'v'|71"),
        ("{{ 'a,b'.split(',') }}{{ 'a b c'.rsplit(None, 1) }}", '["a", "b"]["a b", "c"]'),
        ("{{ 'x\\ny'.splitlines() }}{{ 'abc def' | truncate(6, leeway=0) }}", '["x", "y"]abc...'),
        ("{{ ', '.join(l | map('string')) }}{{ 'aXa'.replace('a', 'b', 1) }}{{ '7'.zfill(3) }}", "1, 2, 3bXa007"),
        ("{{ t | groupby('n') | length }}{{ l | first }}{{ l | last }}{{ 2.5 | round(0, 'ceil') }}", "2133.0"),
        ("{{ 2 in l }}{{ l is sequence }}{{ 1 < 2 < 3 }}{{ 3 is divisibleby 3 }}{{ 2 is in l }}", "true" * 5),
        ("{{ 'é' | urlencode }}{{ '<b>a</b> c' | striptags }}{{ d | dictsort | length }}", "%C3%A9a c2"),
    ],
)  # fmt: skip
def test_counting_changes_no_result(content: str, text: str) -> None:
    """Loops, macros, filters and methods do what Jinja's documentation says."""
    tree = [{"n": 1, "c": [{"n": 2, "c": []}]}, {"n": 3, "c": [{"n": 4, "c": []}]}]
    values = {"l": [1, 2, 3], "d": {"a": 1, "b": [2]}, "t": [{"n": 1}, {"n": 3}], "tree": tree}
    assert _content(content, values) == text


# the sandbox

TEXT_FILTERS = (
    *("capitalize", "e", "escape", "indent", "lower", "string", "striptags", "title", "trim", "upper", "wordcount"),
    *("format", "replace('b', x)"),
)
NEITHER_TEXT_NOR_VALUE = {name for name in row_environment().filters if " " not in name} - set(TEXT_FILTERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "expression",
    [
        "x.__class__",
        "x['__class__']",
        "cycler.__init__.__globals__",
        "namespace.__init__",
        "joiner.__init__",
        "dict.fromkeys(l)",
        "dict.mro()",
        "self.__init__",
        "self._TemplateReference__context",
        "'{0.__class__}'.format(x)",
        "'{a.__class__}'.format_map({'a': x})",
        "x.nope._undefined_obj",
        "x.nope.__class__",
        "x.expandtabs(10**9)",
        "x.translate({})",
        "x.encode('idna')",
        "n.to_bytes(10**9, 'big')",
        "n.from_bytes(b)",
        "b.fromhex('00')",
        "l.append(1)",
        "s.update({'a': 2})",
        "d.from_float(1.5)",
        "t.now()",
        "t.today()",
        "t.fromtimestamp(0)",
        "t.astimezone()",
        "naive.astimezone()",
        "naive.timestamp()",
        "t.tzinfo.no_cache('UTC')",
        "t.tzinfo.from_file(x)",
    ],
)
@pytest.mark.parametrize("form", ["{{ %s }}", "a {{ %s }}", "{%% set f = (%s) %%}{{ f }}"])
def test_neither_python_nor_clock_nor_file_is_reached(form: str, expression: str) -> None:
    """A method that is not listed is not there, whatever a later Python adds; nor is an attribute with a `_`."""
    with pytest.raises(SecurityError, match="is not available in a template"):
        _content(form % expression)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("t.strftime('%d %B %Y %%s')", "02 January 2026 %s"),
        ("t.isoformat() ~ t.date() ~ t.timestamp()", "2026-01-02T12:00:00+01:002026-01-021767351600.0"),
        ("'{:%Y}'.format(t) ~ t.year ~ t.tzname()", "20262026CET"),
        ("b.decode('latin-1')", "raw"),
        ("x.upper() ~ x.title() ~ x.startswith('a')", "ABCAbcTrue"),
        ("d.quantize(d) ~ f.is_integer() ~ n.bit_length()", "1.5False2"),
        ("l[:3].index(2) ~ s.get('z', '-') ~ s.copy().a", "2-1"),
    ],
)
def test_methods_with_a_use_are_there(expression: str, text: str) -> None:
    """Dates, texts and numbers can be written in another way."""
    assert _content(f"{{{{ {expression} }}}}").endswith(text)


@pytest.mark.parametrize(
    "expression",
    [
        "naive.strftime('%s')",
        "t.strftime('%-10s')",
        "'{:%s}'.format(t)",
        "'{:%Es}'.format(naive)",
        "naive.strftime(format='%s')",
    ],
)
def test_time_zone_of_the_machine_is_not_asked(expression: str) -> None:
    """Another TZ in the environment would make another request, and the answer would be paid for again."""
    with pytest.raises(ValueError, match="depends on the time zone of the machine"):
        _content(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize(
    "expression",
    [
        "ns ~ ''",
        "'%s' % [ns]",
        "'%s' % {'a': ns}",
        "'%r' | format(a=ns)",
        "'%(a)s' % {'a': ns}",
        "ns | format",
        "'{}'.format(ns)",
        "ns | string",
        "[ns] | join",
        "x is lower and ns is lower",
        "ns is upper",
        "{'a': ns} | urlencode",
        "{'a': ns} | items | urlencode",
        *(f"{form} | {name}" for form in ("ns", "[ns]", "{'a': [ns]}") for name in TEXT_FILTERS),
    ],
)
def test_address_in_memory_is_no_text(expression: str) -> None:
    """Every way to text refuses what is no value: it would be another request in each run."""
    with pytest.raises(ValueError, match="a Namespace is not a value"):
        _content(f"{{% set ns = namespace(a=x) %}}{{{{ {expression} }}}}")


@pytest.mark.parametrize("name", TEXT_FILTERS)
def test_address_of_an_iterator_is_no_text(name: str) -> None:
    """What `map` and the like give is no list yet, and its text another one in each run."""
    with pytest.raises(ValueError, match=r"a list_iterator is not a value; .* `\| list`"):
        _content(f"{{{{ l | map('string') | {name} }}}}")


@pytest.mark.parametrize("name", sorted(NEITHER_TEXT_NOR_VALUE))
def test_no_other_filter_makes_text_of_an_object(name: str) -> None:
    """Whatever the filter does with an object and lists of it, nothing of its address gets into a request."""
    arguments = {"map": "('string')", "groupby": "('a')", "batch": "(1)", "slice": "(1)", "replace": "('', '')"}
    for form in ("ns", "[ns]", "{'a': ns}", "{'a': ns}.items()"):
        with contextlib.suppress(Exception):
            made = _content(f"{{% set ns = namespace(a=x) %}}{{{{ {form} | {name}{arguments.get(name, '')} }}}}")
            assert "0x" not in str(made)


def test_values_have_the_text_that_they_had() -> None:
    """Numbers, truth, lists, dates and what is missing by default are written as Jinja writes them."""
    content = "{{ true | lower }}{{ [1, 'A'] | upper }}{{ n | trim }}{{ t.date() | capitalize }}{{ s | urlencode }}"
    content += "{{ '%d%% of %s' | format(n, l[:2]) }}{{ '%(a)s%%' % s }}{{ '%s' % s }}{{ [('a', n)] | urlencode }}"
    content += "{{ s | items | urlencode }}{{ n | urlencode }}{{ n is lower }}{{ '<i>1</i>' | striptags }}"
    assert _content(content) == "true[1, 'A']32026-01-02a=13% of [0, 1]1%{'a': 1}a=3a=13false1"


def test_mapping_is_weighed_for_no_percent_sign() -> None:
    """`%%` is a sign and no value: a large mapping is not counted for it, but each time that it is text."""
    large = {"a": "x" * 2_000_000, "b": 1}
    assert _content("{{ ('%%' * 90 ~ '%(b)s') % v }}", {"v": large}) == "%" * 90 + "1"
    with pytest.raises(LimitError):
        _content("{{ ('%(a)s' * 90) % v }}", {"v": large})


def test_batches_are_counted_before_they_are_made() -> None:
    """A long text in batches of one fails at once, not after five million lists."""
    started = time.monotonic()
    with pytest.raises(LimitError, match=re.escape(STEPS)):
        _content("{{ v | batch(1) | list | length }}", {"v": "x" * 5_000_000})
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("expression", ["n ** (2 * 10**7)", "(-n) ** (2 * 10**7)"])
def test_power_is_refused_before_it_is_computed(expression: str) -> None:
    """It would take longer than anybody waits, and more memory than there is."""
    started = time.monotonic()
    with pytest.raises(LimitError, match=DIGITS):
        _content(f"{{{{ {expression} }}}}")
    assert time.monotonic() - started < 1.5


HOSTILE = st.sampled_from(
    ["{{ 7 * 7 }}", "{% for i in range(10) %}x{% endfor %}", "{other}", "{0.__class__}", "%(other)s", "%s", "${HOME}"]
)


WAYS = "{{ v }}|{{ '%s' % v }}|{{ '{}'.format(v) }}|{{ v ~ '' }}|{{ [v] | join }}|{% set w = v %}{{ w | trim('') }}"
EVERY_WAY = _compile(WAYS, {"v": "", "other": ""})


@given(st.lists(HOSTILE | st.text(max_size=5), max_size=5).map("".join))
def test_row_value_is_never_expanded(value: str) -> None:
    """Templates, formats and variables in a cell are text, by whatever way they get into the message."""
    body = EVERY_WAY.render({"v": value, "other": "secret"})
    assert body["messages"][0]["content"] == "|".join([value] * 6)


# the same in every run


def test_bound_is_that_of_a_row() -> None:
    """What one row used up, the next has again; and a row that failed fails again, in any thread."""
    template = _compile("{% for i in range(n) %}{% for j in range(1000) %}{% endfor %}{% endfor %}{{ n }}")
    fits, too_much = {**ROW, "n": 990}, {**ROW, "n": 1000}
    for _ in range(2):
        assert template.render(fits)["messages"][0]["content"] == "990"
        with pytest.raises(LimitError):
            template.render(too_much)
    assert template.render(fits)["messages"][0]["content"] == "990"


@pytest.mark.parametrize("depth", [MAX_LEVELS - 1, MAX_LEVELS])
def test_recursion_ends_at_the_same_level_on_any_stack(depth: int) -> None:
    """A run's thread has another stack than the command that writes its output: both must find the same request."""
    content = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{{ n }}{% endmacro %}{{ m(v) }}"
    prompt = compile_prompt(
        {"model": "m", "messages": [{"role": "user", "content": content}]},
        ["v"],
        endpoint_name="e",
        dedupe=True,
        media=MediaFolder(None, 2**20, None, Unremembered()),
    )
    made: list[ChatRequest | Failure] = []

    def make(stack: int) -> None:
        if stack:
            make(stack - 1)
        else:
            made.append(prompt.request(Row(1, {"v": depth}, "1")))

    for stack in (0, 150):
        thread = threading.Thread(target=make, args=(stack,))
        thread.start()
        thread.join()
    assert made[0] == made[1]
    assert isinstance(made[0], ChatRequest if depth < MAX_LEVELS else Failure)


def test_failure_is_of_the_kind_template() -> None:
    """The row says which bound it met and what to do; the others are asked."""
    prompt = compile_prompt(
        {"model": "m", "messages": [{"role": "user", "content": "{{ 'ab' * n }}"}]},
        ["n"],
        endpoint_name="e",
        dedupe=True,
        media=MediaFolder(None, 2**20, None, Unremembered()),
    )
    assert prompt.request(Row(1, {"n": 10**12}, "1")) == Failure("template", CHARACTERS)
    assert isinstance(prompt.request(Row(2, {"n": 2}, "2")), ChatRequest)


def test_long_text_within_the_bound_is_rendered() -> None:
    """Twenty million characters are no reason to fail, nor is a loop over twenty thousand items with a filter."""
    assert len(_content("{{ x }}{{ x }}", {"x": "é" * 20_000_000})) == 40_000_000 < MAX_CHARACTERS
    items = [{"name": f"item {number}", "tags": ["a", "b"]} for number in range(20_000)]
    text = _content(
        "{% for i in x %}{{ i.name | upper }}{{ i.tags | join }}{% if i.name == 'x' %}!{% endif %}{% endfor %}",
        {"x": items},
    )
    assert len(text) == sum(len(item["name"]) + 2 for item in items)
