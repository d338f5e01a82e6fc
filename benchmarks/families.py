"""Which families of networks are read, and how: `make families` writes docs/families.md.

Every figure is made here: a tiny random network of each family is tried, and what is evaluated is
held against the network's own PyTorch hooks.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from importlib.metadata import version

from tests.places import ROOT
from tests.reference.family_networks import FAMILIES
from tests.reference.family_table import DIRECTLY, EVERY_PATH, REFUSED, examine, heading, row, told

PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- made by make families -->", "<!-- end -->"
PACKAGES = {"transformers": "transformers", "transformer-lens": "TransformerLens"}


def main() -> None:
    """Writes what is between the marks of the page."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    rows, sentences, reads = heading(), list[str](), Counter[str]()
    for name, family in FAMILIES.items():
        found = examine(family)
        reads[found.read] += 1
        rows.append(row(name, family, found))
        sentences += told(name, found)
        print(rows[-1], file=sys.stderr, flush=True)
    with_ = " and ".join(f"{name} {version(package)}" for package, name in PACKAGES.items())
    counted = ", ".join(f"{reads[read]} {read}" for read in (DIRECTLY, EVERY_PATH, REFUSED))
    lines = [f"{len(FAMILIES)} families with {with_}: {counted}.", "", *rows, ""]
    if sentences:
        lines += ["What is said of those that are not read directly, or not in every way:", ""]
        lines += [*sentences, ""]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", "", *lines, f"{END}{after}"]))


if __name__ == "__main__":
    main()
