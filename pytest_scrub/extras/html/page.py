"""A run as one page that needs nothing else, and a claim as a piece of one."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible_lines
from pytest_scrub.extras.html import plots
from pytest_scrub.extras.html.aligned import aligned
from pytest_scrub.extras.html.diagram import diagram, laid_out
from pytest_scrub.extras.html.over import over
from pytest_scrub.reports.circuit import rest, stated
from pytest_scrub.reports.over import same_networks
from pytest_scrub.reports.predicted import ANSWERS, answer_rows
from pytest_scrub.reports.run import ERROR, FAILED, Run
from pytest_scrub.reports.short import in_short
from pytest_scrub.reports.terminal import headline, remedy, worst_found
from pytest_scrub.verdict import OUTCOMES, Circuit, Word

TEMPLATES = Path(__file__).parent / "templates"
# The signs are those of the markers in its plot.
SIGNS = {"error": "✖", "failed": "✖"} | {word: mark.sign for word, mark in OUTCOMES.items()}


def page(run: Run) -> str:
    """One HTML file with all claims of a run: nothing is loaded, and nothing of what claims or data
    say is executed."""
    verdicts = {f"#claim-{i}": one.verdict for i, one in enumerate(run.claims, 1) if one.verdict}
    script = hashlib.sha256(_source("page.js").encode()).digest()
    return _environment().get_template("page.html").render(
        run=run, broad=plots.overview(verdicts), narrow=plots.overview(verdicts, narrow=True),
        first=next((i for i, one in enumerate(run.claims, 1) if one.result in (FAILED, ERROR)), 0),
        plotted=sorted({(verdict.word, verdict.result) for verdict in run.judged}, key=_first),
        over=over(run), same_networks=same_networks(run),
        script_hash=base64.b64encode(script).decode(),
    )  # fmt: skip


def _first(told: tuple[Word, str]) -> int:
    return list(OUTCOMES).index(told[0])


def fragment(verdict: Verdict) -> str:
    """One claim as a piece of HTML, as a notebook shows it: with its style, and without a
    script."""
    return _environment().get_template("fragment.html").render(verdict=verdict)


def drawn(circuit: Circuit, text: str) -> str:
    """A hypothesis as such a piece: what it is as a drawing, and as text."""
    parts = {"circuit": laid_out(circuit), "text": text}
    return _environment().get_template("hypothesis.html").render(parts)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # whatever a template is called
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": "{:.4g}".format,
        "share": "{:.1%}".format,
        "shell": shlex.join,
        "breakable": _breakable,
        "one_line": lambda text: text.replace("\n", "↵"),
    }
    shown = (
        aligned, answer_rows, diagram, headline, in_short, remedy, rest, stated, worst_found,
        plots.distributions, plots.convergence, plots.search_curves, plots.dashes,
        plots.attention_axes,
    )  # fmt: skip
    answers = [(name, "number" if nth else "") for nth, name in enumerate(ANSWERS)]
    environment.globals |= {"signs": SIGNS, "source": _source, "answer_columns": answers}
    environment.globals["null_dashes"] = plots.DASHES_OF_NULL
    environment.globals |= {function.__name__: function for function in shown}
    return environment


def _breakable(name: str) -> Markup:
    """A long name that a narrow page may break where its parts meet."""
    return Markup(re.sub(r"([_/:])", r"\1<wbr>", str(escape(visible_lines(name)))))


def _finalized(value: Any) -> Any:
    """What an expression of a template shows, before it is escaped."""
    return value if isinstance(value, Markup) else visible_lines(str(value))


def _source(name: str) -> Markup:
    """A style or a script of the package, which no template language reads."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
