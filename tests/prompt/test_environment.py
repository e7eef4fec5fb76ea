"""What a template may do for one row: nothing huge in one step, nothing of Python, and the same in every run."""

import contextlib
import datetime
import decimal
import json
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError

from batchchat.prompt.environment import MAX_CHARACTERS, RowEnvironment
from batchchat.prompt.media.folder import MediaFolder, Unremembered
from batchchat.prompt.request import Prompt, compile_prompt
from batchchat.prompt.template import RequestTemplate, compile_request
from batchchat.records import ChatRequest, Failure, Row
from tests.running import ROOT

CHARACTERS = "67,108,864 characters of text"
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
    "wide": b"%999999999d",
    "t": BERLIN,
    "naive": BERLIN.replace(tzinfo=None),
}


def _compile(content: str, columns: Mapping[str, Any] = ROW) -> RequestTemplate:
    return compile_request({"model": "m", "messages": [{"role": "user", "content": content}]}, list(columns))


def _outcome(content: str, values: Mapping[str, Any]) -> Any:
    """Return what a content makes of values, or the error."""
    try:
        return _content(content, values)
    except ValueError as error:
        return error


def _content(content: str, values: Mapping[str, Any] = ROW) -> Any:
    return _compile(content, values).render(values)["messages"][0]["content"]


HUGE = {
    "list of texts times": ("{{ [big] * 10**5 }}", CHARACTERS),
    "JSON of texts times": ("{{ ([big] * 10**5) | tojson | length }}", CHARACTERS),
    "full-width width": (f"{{{{ '{{:>\uff11{9 * chr(0xFF10)}}}'.format(x) }}}}", CHARACTERS),
    "sum of texts": ("{{ ([big] * 10**5) | sum(start='') }}", CHARACTERS),
    "sum of lists": ("{{ ([l] * 10**4) | sum(start=[]) | length }}", "1,000,000 items"),
    "text times": ("{{ x * 10**10 }}", CHARACTERS),
    "times text": ("{{ 10**10 * x }}", CHARACTERS),
    "list times": ("{{ [x] * 10**10 }}", "1,000,000 items"),
    "power": ("{{ n ** (2 * 10**7) }}", "4,200 digits"),
    "negative power": ("{{ (-n) ** (2 * 10**7) }}", "4,200 digits"),
    "percent width": ("{{ '%0999999999d' % n }}", CHARACTERS),
    "percent star": ("{{ '%*d' % (10**9, n) }}", CHARACTERS),
    "percent precision": ("{{ '%.999999999f' % f }}", CHARACTERS),
    "percent after a name": ("{{ '%(a)999999999d' % s }}", CHARACTERS),
    "percent of a value many times": ("{{ ('%(big)s' * 400) % row }}", CHARACTERS),
    "percent of bytes": ("{{ wide % 1 }}", CHARACTERS),
    "format filter": ("{{ '%0999999999d' | format(n) }}", CHARACTERS),
    "format width": ("{{ '{:>999999999}'.format(n) }}", CHARACTERS),
    "format nested width": ("{{ '{:{w}}'.format(n, w=10**9) }}", CHARACTERS),
    "format of a value many times": ("{{ ('{0}' * 400).format(big) }}", CHARACTERS),
    "format_map": ("{{ '{n:>999999999}'.format_map({'n': n}) }}", CHARACTERS),
    "center": ("{{ x.center(10**10) }}", CHARACTERS),
    "ljust": ("{{ x.ljust(10**10) }}", CHARACTERS),
    "rjust": ("{{ x['rjust'](10**10) }}", CHARACTERS),
    "zfill": ("{{ x.zfill(10**10) }}", CHARACTERS),
    "indent": ("{{ x | indent(10**10, true) }}", CHARACTERS),
    "indented lines": ("{{ big | replace(' ', '\\n') | indent(10**6) }}", CHARACTERS),
    "batch": ("{{ l | batch(10**10, 'x') | list }}", "1,000,000 items"),
    "slice": ("{{ l | slice(10**10) | list }}", "1,000,000 items"),
    "round": ("{{ n | round(-10**9) }}", "400 digits"),
    "json indent": ("{{ l | tojson(indent=10**9) }}", "100 blanks before a line"),
    "replaced nothing": ("{{ big | replace('', big) }}", CHARACTERS),
    "method replace": ("{{ big.replace(' ', big) }}", CHARACTERS),
    "joined": ("{{ l | join(big) }}", CHARACTERS),
    "method join": ("{{ big.join(big) }}", CHARACTERS),
    "tilde": ("{{ " + "big ~ " * 200 + "x }}", CHARACTERS),
    "text of a loop": ("{% for i in range(90000) %}" + "-" * 2000 + "{% endfor %}{{ x }}", CHARACTERS),
    "row text in a loop": ("{% for i in range(90000) %}{{ big }}{% endfor %}", CHARACTERS),
    "set block": ("{% set t %}{% for i in range(900) %}{{ big }}{% endfor %}{% endset %}{{ t | length }}", CHARACTERS),
    "macro": (
        "{% macro m() %}{% for i in range(900) %}{{ big }}{% endfor %}{% endmacro %}{{ m() | length }}",
        CHARACTERS,
    ),
}
MEMORY_BYTES = 1024 * 2**20


def _write_endings() -> None:
    """Render every template of `HUGE`, in a process that has little memory, and write how each ended."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    endings = {}
    for name, (content, _) in HUGE.items():
        try:
            endings[name] = f"rendered: {str(_content(content))[:80]}"
        except Exception as error:
            endings[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(endings))


@pytest.fixture(scope="module")
def endings() -> dict[str, str]:
    """Return how each template of `HUGE` ended."""
    call = "from tests.prompt import test_environment; test_environment._write_endings()"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_step_that_makes_too_much_fails_its_row(endings: dict[str, str], name: str) -> None:
    """What a value of a row pads, repeats or joins is refused before it is made."""
    assert endings[name] == (
        f"ValueError: a template makes more than {HUGE[name][1]} of this row; use smaller values, or prepare a column"
        " before the run"
    )


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{{ x }}", "{{ x }}{{ x }}", "{{ x | upper }}!"])
def test_message_has_a_most_of_characters(content: str) -> None:
    """Whatever way its text is made; one that is just as long is sent."""
    most = "é" * (MAX_CHARACTERS // 2 if "}{" in content else MAX_CHARACTERS - content.count("!"))
    assert len(_content(content, {"x": most})) == MAX_CHARACTERS
    with pytest.raises(ValueError, match=f"a template makes more than {CHARACTERS} of this row"):
        _content(content, {"x": f"{most}é"})


@pytest.mark.parametrize("content", ["{{ range(10**9) | list }}", "{{ range(10**30) | list }}"])
def test_range_is_bounded(content: str) -> None:
    """Jinja's sandbox has a bound of its own."""
    with pytest.raises(OverflowError):
        _content(content)


def test_integer_that_python_does_not_write_fails_its_row() -> None:
    """A number of thousands of digits is no text."""
    with pytest.raises(ValueError, match="4300 digits"):
        _content("{{ n ** 6000 * n ** 6000 }}")


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
def test_templates_do_what_jinja_documents(content: str, text: str) -> None:
    """Loops, macros, filters and methods, guarded or not."""
    tree = [{"n": 1, "c": [{"n": 2, "c": []}]}, {"n": 3, "c": [{"n": 4, "c": []}]}]
    values = {"l": [1, 2, 3], "d": {"a": 1, "b": [2]}, "t": [{"n": 1}, {"n": 3}], "tree": tree}
    assert _content(content, values) == text


# the sandbox

TEXT_FILTERS = (
    *("capitalize", "e", "escape", "indent", "lower", "string", "striptags", "title", "trim", "upper", "wordcount"),
    *("format", "replace('b', x)"),
)
NEITHER_TEXT_NOR_VALUE = set(RowEnvironment().filters) - set(TEXT_FILTERS)


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
    with pytest.raises(ValueError, match=r"a generator is not a value; .* `\| list`"):
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


def test_difference_of_keys_has_the_order_of_the_mapping() -> None:
    """A set has another order in each process, and would make another request."""
    values = {"s": dict.fromkeys("abcdefghij", 1)}
    assert _content("{{ (s.keys() - {'b': 1, 'z': 2}.keys()) | join }}", values) == "acdefghij"
    assert _content("{{ s.keys() - ['b'] - ['a'] == {'c': 1}.keys() }}", {"s": {"a": 1, "b": 2, "c": 3}}) == "true"


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


# as a row's failure


def _prompt(content: str, *columns: str) -> Prompt:
    return compile_prompt(
        {"model": "m", "messages": [{"role": "user", "content": content}]},
        columns,
        endpoint_name="e",
        dedupe=True,
        media=MediaFolder(None, 2**20, None, Unremembered()),
    )


@pytest.mark.parametrize(
    "content",
    [
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(n) }}",
        "{% for i in [1] recursive %}{{ loop([n]) }}{% endfor %}",
        "{% block a %}{{ n }}{{ self.a() }}{% endblock %}",
    ],
)
def test_endless_recursion_is_the_rows_failure(content: str) -> None:
    """With the same words from any depth of the stack: they are written into the output."""
    prompt = _prompt(content, "n")
    made: list[ChatRequest | Failure] = []

    def make(stack: int) -> None:
        if stack:
            make(stack - 1)
        else:
            made.append(prompt.request(Row(1, {"n": 1}, "1")))

    for stack in (0, 50, 150):
        thread = threading.Thread(target=make, args=(stack,))
        thread.start()
        thread.join()
    message = (
        "macros or recursive loops call each other more than 100 levels deep; end the recursion sooner, or prepare a"
        " column before the run"
    )
    assert made == [Failure("template", message)] * 3


def test_recursion_ends_at_the_same_level_on_any_stack() -> None:
    """A run renders in a thread, and what is written in the end in the caller's: the same rows must fail."""
    content = "{% macro m(k) %}{% if k > 1 %}{{ m(k - 1) }}{% endif %}x{% endmacro %}{{ m(n) }}"

    def answered(stack: int) -> list[int]:
        if stack:
            return answered(stack - 1)
        return [n for n in range(95, 105) if isinstance(_outcome(content, {"n": n}), str)]

    assert answered(0) == answered(150) == list(range(95, 101))


def test_failure_is_of_the_kind_template() -> None:
    """The row says what was too much and what to do; the others are asked."""
    prompt = _prompt("{{ 'ab' * n }}", "n")
    failed = prompt.request(Row(1, {"n": 10**12}, "1"))
    assert isinstance(failed, Failure)
    assert failed.kind == "template"
    assert failed.message.startswith(f"a template makes more than {CHARACTERS} of this row; use smaller values")
    assert isinstance(prompt.request(Row(2, {"n": 2}, "2")), ChatRequest)


def test_name_in_a_percent_format_may_have_a_pair_of_parentheses() -> None:
    """Columns are called `price (EUR)`; their width is bounded like any other."""
    values = {"price (EUR)": 3}
    assert _content('{{ "%(price (EUR))4d" | format(**row) }}', values) == "   3"
    assert CHARACTERS in str(_outcome('{{ "%(price (EUR))999999999d" | format(**row) }}', values))
