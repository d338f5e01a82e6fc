"""pytest-scrub beside the other tools and beside the plain forward pass, in one process, turn by
turn.

    python -m benchmarks.peers [--sections small hooks others gpt2 brackets curves]

The first run makes the environment `.venv-peers`. Before anything is timed it is shown that both
compute the same. The tables of docs/performance.md are written anew where all sections ran; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only this folder is on the path

from benchmarks import peers_environment as environment

PAGE = environment.ROOT / "docs" / "performance.md"
PLOT = environment.ROOT / "docs" / "performance-curves.svg"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
Figures = dict[str, float]
Section = tuple[list[str], Figures]  # Markdown, and figures by name
# What is promised: how many times as fast, or by how many times a cost may grow.
AT_LEAST: Mapping[str, tuple[float, str]] = {
    "rust_circuit_4_node": (30.0, "the claim of 4 nodes, against rust_circuit"),
    "rust_circuit_73_node": (10.0, "the claim of 73 nodes, against rust_circuit"),
    "forward_4_node": (12.0, "the claim of 4 nodes, against the faster plain forward pass"),
    "brackets_1b": (
        300.0,
        "claim 1b of the published bracket network, against a clean forward pass",
    ),
    "gpt2_three_levels": (2.0, "26 heads of GPT-2 in three levels, against a clean forward pass"),
    "gpt2_leaves": (30.0, "ten leaves of GPT-2, against a clean forward pass"),
}


def small() -> Section:
    from benchmarks import peers_pairs

    return peers_pairs.small()


def hooks() -> Section:
    from benchmarks import peers_pairs

    return peers_pairs.hooks()


def others() -> Section:
    from benchmarks import peers_pairs

    return peers_pairs.others()


def brackets() -> Section:
    from benchmarks import peers_pairs

    return peers_pairs.brackets()


def gpt2() -> Section:
    from benchmarks import peers_gpt2

    result, facts = peers_gpt2.measure()
    figures = {name: result.ratio(name, "forward") for name in ("gpt2_three_levels", "gpt2_leaves")}
    figures |= {
        f"{name}_end": result.ratio(name, "forward_end")
        for name in ("gpt2_three_levels", "gpt2_leaves")
    }
    return ["### GPT-2 small", "", *peers_gpt2.section(result, facts)], figures


def curves() -> Section:
    from benchmarks import peers_curves

    found = peers_curves.measure()
    peers_curves.plot(found, PLOT)
    figures = {
        f"growth_with_{curve.name}": peers_curves.growth(found[curve.name], curve)
        for curve in peers_curves.CURVES
    }
    said = ", ".join(
        f"{figures[f'growth_with_{curve.name}']:.2f} from {curve.values[0]:,} to "
        f"{curve.values[-1]:,} {curve.name}"
        for curve in peers_curves.CURVES
    )
    lines = [
        "### What an evaluation costs as the network and the data grow",
        "",
        f"One claim, head 1.0 reads head 0.3, on networks of d_model {peers_curves.D_MODEL}, heads "
        f"of {peers_curves.D_HEAD}, MLPs of {peers_curves.D_MLP} and {peers_curves.SEQ} tokens. "
        f"Its cost grows by the factor {said}.",
        "",
        f"![Three curves of cost]({PLOT.name})",
    ]
    return lines + peers_curves.tables(found), figures


SECTIONS: Mapping[str, Callable[[], Section]] = {
    "small": small, "hooks": hooks, "others": others, "gpt2": gpt2, "brackets": brackets,
    "curves": curves,
}  # fmt: skip


def promises(figures: Figures) -> list[str]:
    """Each figure that something is promised of, and whether that is kept."""
    lines = [
        "### What is promised",
        "",
        "| | at least | measured | |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, (least, said) in AT_LEAST.items():
        if name in figures:
            kept = "met" if figures[name] > least else "**missed**"
            lines.append(f"| {said} | {least:g} times | {figures[name]:.1f} times | {kept} |")
    from benchmarks.peers_curves import BEYOND

    for name in (name for name in figures if name.startswith("growth_with_")):
        kept = "met" if figures[name] <= BEYOND else "**missed**"
        lines.append(
            f"| cost of an evaluation as {name.removeprefix('growth_with_')} grow | at most "
            f"{BEYOND:g} times | {figures[name]:.2f} times | {kept} |"
        )
    return lines


def write(lines: list[str]) -> None:
    """Put the tables between the marks of the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    text = "\n".join(line.rstrip() for line in lines)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    wanted = parser.parse_args().sections
    if not environment.inside():
        environment.install()
        again = [environment.PYTHON, "-m", "benchmarks.peers", *sys.argv[1:]]
        sys.exit(
            subprocess.run(
                again, cwd=environment.ROOT, check=False, env={**os.environ, "PYTHONPATH": "."}
            ).returncode
        )
    lines = [f"Measured on {environment.machine()}; {environment.versions()}.", ""]
    figures: Figures = {}
    parts = []
    for name in wanted:
        shown, found = SECTIONS[name]()
        print("\n".join(["", *shown, ""]), flush=True)
        parts += [*shown, ""]
        figures |= found
    lines += [*promises(figures), "", *parts]
    if wanted == list(SECTIONS):
        write(lines[:-1])
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
