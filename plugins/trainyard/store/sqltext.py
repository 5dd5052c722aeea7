"""Reading SQL text just far enough: statements, named parameters, the form psycopg wants.

One scanner serves all three, so that a colon or semicolon inside a string, a quoted name or a
comment is never taken for syntax, and ``::`` stays PostgreSQL's cast.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<opaque>
        '(?:[^']|'')*'                  # string; a doubled quote stays inside
      | "(?:[^"]|"")*"                  # quoted name
      | --[^\n]*                        # comment to the end of the line
      | /\*.*?\*/                       # block comment
      | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ # PostgreSQL's dollar quoting
      | ::                              # PostgreSQL's cast
    )
  | :(?P<name>[A-Za-z_]\w*)
  | (?P<end>;)
  | (?P<plain>[^'"\-/$:;]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _tokens(sql: str) -> Iterator[re.Match[str]]:
    return _TOKEN.finditer(sql)


def parameters(sql: str) -> tuple[str, ...]:
    """Return the names of the ``:name`` parameters of *sql*, each once, in order of appearance."""
    return tuple(dict.fromkeys(m["name"] for m in _tokens(sql) if m["name"]))


def to_psycopg(sql: str) -> str:
    """Return *sql* with ``:name`` as ``%(name)s``, and every other ``%`` doubled.

    psycopg looks for ``%`` in the whole text, strings and comments included.
    """
    return "".join(
        f"%({m['name']})s" if m["name"] else m.group().replace("%", "%%") for m in _tokens(sql)
    )


def statements(script: str) -> list[str]:
    """Return the statements of *script*, without their semicolons; comments alone are none."""
    made: list[str] = []
    text, holds_code = "", False
    for token in _tokens(script):
        if token["end"]:
            if holds_code:
                made.append(text.strip())
            text, holds_code = "", False
            continue
        text += token.group()
        holds_code = holds_code or not _is_filler(token.group())
    if holds_code:
        made.append(text.strip())
    return made


def _is_filler(token: str) -> bool:
    return not token.strip() or token.startswith(("--", "/*"))
