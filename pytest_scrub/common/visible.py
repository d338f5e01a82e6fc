"""Text from data or names: with escapes for whatever acts on a terminal or on an encoder, and in
the order that a reader expects."""

from __future__ import annotations

import re


def visible(text: str) -> str:
    """One line: what is not printable, such as a newline, a colour or a mark from right to left, is
    its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, longest: int) -> str:
    """The text with no more than so many characters, dots where it goes on."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def visible_lines(text: str) -> str:
    """The same for each line."""
    return "\n".join(visible(line.expandtabs()) for line in text.split("\n"))


def utf8_safe(text: str) -> str:
    """The text as UTF-8 can have it: a lone surrogate, on which pytest-xdist would break down, is
    its escape."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def natural(text: str) -> tuple[list[str | int], str]:
    """What texts are sorted by where step2 comes before step10: numbers by their size; the others
    are text, and take turns with them."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if nth % 2 else part for nth, part in enumerate(parts)], text
