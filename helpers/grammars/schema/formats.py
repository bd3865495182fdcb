"""The formats of JSON Schema 2020-12 as regular expressions, after the RFCs that define them.

`format` is an annotation unless a schema's user asks for more; here the specification's own
formats are enforced, as the `jsonschema` package does with its format checker, and any other name
is an annotation. Two formats are not regular languages and are refused: `regex` and the
`idn-hostname` (its rules need Unicode tables).
"""

from __future__ import annotations

from functools import cache

from helpers.grammars.gbnf.syntax import Node
from helpers.grammars.schema.ecma import search

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
_H16 = r"[0-9A-Fa-f]{1,4}"
_LS32 = rf"({_H16}:{_H16}|{_IPV4})"


def _ipv6() -> str:
    """RFC 3986, appendix A: IPv6address, written out for every place of the '::'."""
    forms = [rf"({_H16}:){{6}}{_LS32}"]
    for after in range(5, -1, -1):
        before = 5 - after
        head = rf"(({_H16}:){{0,{before - 1}}}{_H16})?" if before else ""
        forms.append(rf"{head}::({_H16}:){{{after}}}{_LS32}")
    forms.append(rf"(({_H16}:){{0,5}}{_H16})?::{_H16}")
    forms.append(rf"(({_H16}:){{0,6}}{_H16})?::")
    return "(" + "|".join(forms) + ")"


_IPV6 = _ipv6()
_LEAP_YEARS = r"[0-9]{2}(0[48]|[2468][048]|[13579][26])"
# Python's dates begin in the year 1, and so does what is checked with them.
_DATE = (
    r"((000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|({_LEAP_YEARS}|(0[48]|[2468][048]|[13579][26])00)-02-29)"
)
# No leap seconds: they come at 23:59:60 UTC alone, and Python's times (which the `jsonschema`
# package checks with) do not know them.
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
_TIME = rf"{_CLOCK}([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"

_UNRESERVED = r"A-Za-z0-9._~\-"
_SUB_DELIMS = r"!$&'()*+,;="
_PCT = r"%[0-9A-Fa-f]{2}"
_UCS = (
    r"\u{A0}-\u{D7FF}\u{F900}-\u{FDCF}\u{FDF0}-\u{FFEF}"
    + "".join(rf"\u{{{plane:X}0000}}-\u{{{plane:X}FFFD}}" for plane in range(1, 14))
    + r"\u{E1000}-\u{EFFFD}"
)
_PRIVATE = r"\u{E000}-\u{F8FF}\u{F0000}-\u{FFFFD}\u{100000}-\u{10FFFD}"


def _uri(*, reference: bool, international: bool) -> str:
    """RFC 3986 (URI) and RFC 3987 (IRI), appendix A of the first."""
    extra = _UCS if international else ""
    char = rf"([{_UNRESERVED}{extra}{_SUB_DELIMS}:@]|{_PCT})"
    no_colon = rf"([{_UNRESERVED}{extra}{_SUB_DELIMS}@]|{_PCT})"
    name = rf"([{_UNRESERVED}{extra}{_SUB_DELIMS}]|{_PCT})*"
    future = rf"[vV][0-9A-Fa-f]+\.[{_UNRESERVED}{_SUB_DELIMS}:]+"
    host = rf"(\[({_IPV6}|{future})\]|{name})"
    authority = rf"(([{_UNRESERVED}{extra}{_SUB_DELIMS}:]|{_PCT})*@)?{host}(:[0-9]*)?"
    path = rf"(/{char}*)*"
    tail = rf"(\?({char}|[/?{_PRIVATE if international else ''}])*)?(#({char}|[/?])*)?"
    absolute = rf"/({char}+{path})?"
    hierarchy = rf"(//{authority}{path}|{absolute}|{char}+{path}|)"
    full = rf"[A-Za-z][A-Za-z0-9+.\-]*:{hierarchy}{tail}"
    if not reference:
        return full
    relative = rf"(//{authority}{path}|{absolute}|{no_colon}+{path}|){tail}"
    return rf"({full}|{relative})"


_LABEL = r"[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+"
_QUOTED = r'"([ !#-\[\]-~]|\\[ -~])*"'
_MAIL_DOMAIN = rf"({_LABEL}(\.{_LABEL})*|\[({_IPV4}|IPv6:{_IPV6})\])"
_IDN_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u{A0}-\u{10FFFF}\-]+"
_IDN_LABEL = (
    r"[A-Za-z0-9\u{A0}-\u{10FFFF}]([A-Za-z0-9\u{A0}-\u{10FFFF}\-]*[A-Za-z0-9\u{A0}-\u{10FFFF}])?"
)
_POINTER = r"(/([^~/]|~[01])*)*"


def _duration() -> str:
    """RFC 3339, appendix A: units follow each other without gaps; weeks stand alone."""
    seconds = r"[0-9]+S"
    minutes = rf"[0-9]+M({seconds})?"
    hours = rf"[0-9]+H({minutes})?"
    time = rf"T({hours}|{minutes}|{seconds})"
    days = r"[0-9]+D"
    months = rf"[0-9]+M({days})?"
    years = rf"[0-9]+Y({months})?"
    return rf"P(({days}|{months}|{years})({time})?|{time}|[0-9]+W)"


_VARIABLE = rf"([A-Za-z0-9_]|{_PCT})(\.?([A-Za-z0-9_]|{_PCT}))*(:[1-9][0-9]{{0,3}}|\*)?"
_TEMPLATE = (
    rf"([!#$&(-;=?-\[\]_a-z~{_UCS}{_PRIVATE}]|{_PCT}"
    rf"|\{{[+#./;?&=,!@|]?{_VARIABLE}(,{_VARIABLE})*\}})*"
)

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}[tT]{_TIME}",
    "duration": _duration(),
    "email": rf"({_ATOM}(\.{_ATOM})*|{_QUOTED})@{_MAIL_DOMAIN}",
    "idn-email": rf"({_IDN_ATOM}(\.{_IDN_ATOM})*|{_QUOTED})@({_IDN_LABEL}(\.{_IDN_LABEL})*)",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _uri(reference=False, international=False),
    "uri-reference": _uri(reference=True, international=False),
    "iri": _uri(reference=False, international=True),
    "iri-reference": _uri(reference=True, international=True),
    "uri-template": _TEMPLATE,
    "uuid": r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(0|[1-9][0-9]*)(#|{_POINTER})",
}
IRREGULAR = frozenset({"regex", "idn-hostname"})
"""Formats of the specification that no regular expression describes."""
LENGTHS = {"hostname": 253}
"""Upper bounds of lengths that the expressions leave open."""


@cache
def format_node(name: str) -> Node | None:
    """The texts of a format.

    Args:
        name: Value of the keyword `format`.

    Returns:
        A node for whole texts, or None where the name is only an annotation or irregular.

    >>> from helpers.grammars.schema.regex import compiled
    >>> date = compiled(format_node("date"))
    >>> bool(date.fullmatch("2024-02-29")), bool(date.fullmatch("2023-02-29"))
    (True, False)
    """
    pattern = _PATTERNS.get(name)
    return None if pattern is None else search(f"^({pattern})$")
