"""The verdicts that docs/how-do-i-say.md shows, each a comment at the end of its claim.

    python -m tests.said verdicts.json

writes them into the page, from what `--scrub-json` wrote of a run of it.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_scrub.reports.terminal import headline
from pytest_scrub.verdict import Verdict
from tests.places import ROOT

PAGE = ROOT / "docs" / "how-do-i-say.md"
COLUMNS = 100
COMMENT = "    # "


@dataclass(frozen=True)
class Shown:
    """The comment of a claim: which lines of the page it is, and what it says."""

    test: str
    first: int
    after: int
    says: str


def shown(page: str) -> Iterator[Shown]:
    """Every claim of the page; one without a comment says nothing. A function ends at an empty
    line."""
    lines, file, is_claim = page.splitlines(), "", False
    for i, line in enumerate(lines):
        if named := re.match(r"# (\w+\.py)(, continued)?$", line):
            file = named[1]
        is_claim = is_claim or line.startswith("@claim(")
        if (function := re.match(r"def (test_\w+)\(", line)) and is_claim:
            is_claim = False
            after = next(n for n in range(i, len(lines)) if lines[n] in ("", "```"))
            first = after
            while lines[first - 1].startswith(COMMENT):
                first -= 1
            says = " ".join(lines[n].removeprefix(COMMENT) for n in range(first, after))
            yield Shown(f"{file}::{function[1]}", first, after, says)


def said(claim: Mapping[str, Any]) -> str:
    """What the first line of a report says of a claim of the JSON file, without the line where it
    is written."""
    verdict = claim["verdict"]
    if verdict is None:
        return f"misstated: {claim['message'].partition(': ')[2]}".rpartition(" (")[0]
    return headline(Verdict.from_json(json.dumps(verdict))).removeprefix("claim ")


def of_run(file: Path) -> dict[str, str]:
    """What a run said of every claim."""
    return {claim["test"]: said(claim) for claim in json.loads(file.read_text())["claims"]}


def main() -> None:
    run, lines = of_run(Path(sys.argv[1])), PAGE.read_text().splitlines()
    for one in reversed(list(shown(PAGE.read_text()))):
        text = textwrap.wrap(run[one.test], COLUMNS - len(COMMENT))
        lines[one.first : one.after] = [COMMENT + line for line in text]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
