"""`--scrub-init`: a folder of claims that runs as it is, to be changed into one's own.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from pytest_scrub.common.visible import visible
from pytest_scrub.common.whole_files import write_file

TEMPLATES = Path(__file__).parent / "first_claims"
CONFTEST, CLAIMS = Path("conftest.py"), Path("test_claims.py")
WORKFLOW = Path(".github/workflows/claims.yml")


class Kind(NamedTuple):
    """What the files are about.

    - `package`: what a workflow installs for it; `claims`: the folder of its claims.
    """

    package: str
    claims: str


HEADS = Kind("pytest-scrub[transformer-lens]", "hugging-face")
KINDS = {
    "toy": Kind("pytest-scrub", "toy"),
    "module": Kind("pytest-scrub", "module"),
    "hugging-face": HEADS,
    "transformer-lens": HEADS,
}


def kind_of(text: str) -> str:
    """**Raises** `ValueError` for what is no kind of network."""
    if text not in KINDS:
        raise ValueError(f"takes a kind of network, {', '.join(KINDS)}, not {text!r}")
    return text


def write(config: pytest.Config, kind: str) -> None:
    """The files, in the one folder that the command line names, or where pytest was started.

    **Raises** `pytest.UsageError` where one of them is there already, and nothing is written; and
    where the ini file asks for it, as then no run would check a claim.
    """
    if config.getoption("scrub_init") is None:
        raise pytest.UsageError(
            "scrub_init in the ini file would run no claim; give it on the command line"
        )
    named = [str(arg) for arg in config.known_args_namespace.file_or_dir]
    if len(named) > 1 or "::" in "".join(named):
        raise pytest.UsageError(f"--scrub-init takes one folder, not {' '.join(named)}")
    folder = config.invocation_params.dir.joinpath(*named)
    package, claims = KINDS[kind]
    files = {
        CONFTEST: _template(f"{kind}/{CONFTEST}"),
        CLAIMS: _template(f"{claims}/{CLAIMS}"),
        WORKFLOW: Template(_template(WORKFLOW.name)).substitute(package=package),
    }
    for file in files:
        if (folder / file).exists():
            raise pytest.UsageError(
                f"--scrub-init writes {file}, which {folder} has already; name another folder: "
                f"pytest --scrub-init={kind} FOLDER"
            )
    try:
        for file, text in files.items():
            write_file(folder / file, text)
    except OSError as error:
        raise pytest.UsageError(f"--scrub-init cannot write into {folder}: {error}") from None
    where = f"pytest {' '.join(named)}".strip()
    print(visible(f"wrote {', '.join(map(str, files))} in {folder}; run them: {where}"))  # noqa: T201


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")
