"""A run as one page that needs nothing else, and a claim as a piece of one."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_scrub.common.visible import visible_lines
from pytest_scrub.extras.html import plots
from pytest_scrub.extras.html.aligned import aligned
from pytest_scrub.extras.html.diagram import Diagram, diagram
from pytest_scrub.reports.run import Claimed, Run
from pytest_scrub.reports.terminal import headline, remedy
from pytest_scrub.verdict import OUTCOMES, Attempt, Verdict

# In the order of the page's counts; the signs are those of the markers in its plot.
FAILED = {"error": "✖", "failed": "✖"}
SIGNS = FAILED | {outcome: mark.sign for outcome, mark in OUTCOMES.items()}
COLUMNS = (
    ("outcome", False), ("claim", False), ("gap (95 %)", True), ("tolerance", True),
    ("gap / tolerance", True),
    ("recovered", True), ("worst found", True), ("power", True), ("pytest", False),
    ("seconds", True),
)  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """A verdict with everything that is drawn of it; `search_curves` has the dashes that `curves`
    names."""

    verdict: Verdict
    headline: str
    remedy: tuple[str, ...]
    diagram: Diagram
    distributions: Markup | None
    convergence: Markup | None
    search_curves: Markup | None
    curves: tuple[tuple[Attempt, tuple[float, ...]], ...]

    @property
    def has_slots(self) -> bool:
        return any(node.into is not None for node in self.verdict.circuit.nodes)

    @property
    def has_every_path(self) -> bool:
        return any(node.along_every_path for node in self.verdict.circuit.nodes)

    @property
    def has_computed(self) -> bool:
        return any(node.is_computed for node in self.verdict.circuit.nodes)


@dataclass(frozen=True)
class _Shown:
    """A claim of a page; `drawn` is None for one without a verdict."""

    claimed: Claimed
    id: str
    rerun: str
    drawn: _Drawn | None

    @property
    def name(self) -> str:
        """Without its file."""
        return self.claimed.test.partition("::")[2] or self.claimed.test


def page(run: Run) -> str:
    """One HTML file with all claims of a run: nothing is loaded, and nothing of what claims or data
    say is executed."""
    shown = [
        _Shown(
            claimed=one,
            id=f"claim-{i}",
            rerun=one.rerun,
            drawn=None if one.verdict is None else _drawn(one.verdict, f"claim-{i}"),
        )
        for i, one in enumerate(run.claims, 1)
    ]
    script, order = _source("page.js"), list(SIGNS)
    counts = Counter(one.outcome for one in run.claims)
    places = {word: order.index(word) if word in order else len(order) for word in counts}
    return (
        _environment()
        .get_template("page.html")
        .render(
            run=run,
            claims=shown,
            counts=sorted(counts.items(), key=lambda pair: (places[pair[0]], pair[0])),
            columns=COLUMNS,
            overview=_markup(plots.overview(run.claims, [f"#{one.id}" for one in shown])),
            plotted=[word for word in plots.MARKERS if word in counts],
            css=_source("scrub.css"),
            page_css=_source("page.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def fragment(verdict: Verdict) -> str:
    """One claim as a piece of HTML, as a notebook shows it: with its style, and without a
    script."""
    salt = hashlib.sha256(verdict.to_json().encode("utf-8", "backslashreplace")).hexdigest()[:8]
    drawn = _drawn(verdict, salt)
    return (
        _environment().get_template("fragment.html").render(drawn=drawn, css=_source("scrub.css"))
    )


def _drawn(verdict: Verdict, salt: str) -> _Drawn:
    attempts = () if verdict.search is None else verdict.search.attempts
    both = zip(attempts, plots.dashes(attempts), strict=True)
    return _Drawn(
        verdict=verdict,
        headline=headline(verdict),
        remedy=tuple(remedy(verdict)),
        diagram=diagram(verdict),
        distributions=_markup(plots.distributions(verdict, salt)),
        convergence=_markup(plots.convergence(verdict, salt)),
        search_curves=_markup(plots.search_curves(verdict, salt)),
        curves=tuple((attempt, dash) for attempt, dash in both if attempt.searched),
    )


def _markup(svg: str | None) -> Markup | None:
    """A plot as it is: it was written as XML, which escapes what it says."""
    return None if svg is None else Markup(svg)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pytest_scrub.extras.html"),
        autoescape=True,  # whatever a template is called
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: f"{value:.4g}",
        "shell": shlex.join,
        "breakable": _breakable,
        "one_line": lambda text: text.replace("\n", "↵"),
    }
    environment.globals |= {"aligned": aligned, "signs": SIGNS}
    return environment


def _breakable(name: str) -> Markup:
    """A long name that a narrow page may break where its parts meet."""
    return Markup(re.sub(r"([_/:])", r"\1<wbr>", str(escape(visible_lines(name)))))


def _finalized(value: Any) -> Any:
    """What an expression of a template shows, before it is escaped."""
    return value if isinstance(value, Markup) else visible_lines(str(value))


@functools.cache
def _source(name: str) -> Markup:
    """A style or a script of the package, which no template language reads."""
    text = (importlib.resources.files("pytest_scrub.extras.html") / "templates" / name).read_text(
        "utf-8"
    )
    return Markup(text)
