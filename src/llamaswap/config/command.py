"""`cmd` and `cmdStop`: text to an argument list, without a shell."""

from __future__ import annotations

import re
import shlex

# An odd number of backslashes at the end of a line: the last one escapes the line end. Blanks after it
# are invisible and never meant.
_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\[ \t]*(?:\n|\Z)")


def strip_comments(text: str) -> str:
    """`text` without the lines whose first visible character is `#`."""
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))


def split_command(text: str) -> tuple[str, ...]:
    """The arguments of a command as a POSIX shell would split it, nothing else done to them.

    Lines that start with `#` are dropped, a line that ends in a backslash goes on in the next. Raises
    ValueError, saying what is wrong and what would be right.
    """
    joined = _CONTINUED.sub(r"\1 ", strip_comments(text))
    if "\0" in joined:
        raise ValueError("contains a null character, which no argument can carry; remove it")
    try:
        return tuple(shlex.split(joined))
    except ValueError as error:
        if "escaped" in str(error):
            raise ValueError("ends in a backslash that escapes nothing; remove it or write two") from None
        raise ValueError(
            f"has an unbalanced quote{_open_quote(joined)}; close it, or write \\' or \\\" for a literal one"
        ) from None


def _open_quote(text: str) -> str:
    """` (' opened before "…")` for the quote that is never closed."""
    quote, opened, i = "", 0, 0
    while i < len(text):
        c = text[i]
        if c == "\\" and quote != "'":
            i += 1
        elif quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote, opened = c, i
        i += 1
    rest = " ".join(text[opened + 1 : opened + 31].split())
    return f" ({quote} opened before {rest!r})" if quote else ""
