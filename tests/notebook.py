"""The tutorial notebook with what its cells print. `python -m tests.notebook` executes it and
writes their texts into it; drawings are left out, which would change with every new style."""

from __future__ import annotations

from typing import Any

from tests.places import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
SLOWEST = 300  # seconds for one cell: ten at most on a free machine


def read() -> Any:
    """The notebook as it is kept."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def executed() -> Any:
    """The same, executed here by a kernel of this Python."""
    from nbclient import NotebookClient

    notebook = read()
    folder = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=SLOWEST, resources=folder).execute()
    return notebook


def with_texts_alone(notebook: Any) -> Any:
    """What is kept of an executed notebook: nothing but what everybody's cells print."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        for output in cell.outputs:
            if "data" in output:
                output["data"] = {"text/plain": output["data"]["text/plain"]}
            if "execution_count" in output:
                output["execution_count"] = None
        # where progress was shown, which is gone
        cell.outputs = [one for one in cell.outputs if one.output_type != "display_data"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


if __name__ == "__main__":
    import nbformat

    nbformat.write(with_texts_alone(executed()), NOTEBOOK)
