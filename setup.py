"""The page that a package index shows, which `pyproject.toml` cannot make: README.md without its
relative links, which lead nowhere from there."""

import re
from pathlib import Path

from setuptools import setup

RELATIVE = re.compile(r"(!?)\[([^]]+)\]\((?!https?://)([^)]+)\)")


def named(link: re.Match[str]) -> str:
    """The file that a link leads to, as text."""
    picture, text, path = link.groups()
    if picture:
        return f"(Drawn in `{path}` of the source: {text}.)"
    return f"`{path}`" if text == path else f"{text} (`{path}`)"


README = RELATIVE.sub(named, Path("README.md").read_text(encoding="utf-8"))
setup(
    long_description=f"{README}\nFiles named here are those of the source.\n",
    long_description_content_type="text/markdown",
)
