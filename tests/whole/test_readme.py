"""The README's own files, run in an empty folder."""

from __future__ import annotations

import re

from tests.places import ROOT

README = ROOT / "README.md"


def test_the_first_steps_run_as_they_stand(pytester, warm):
    blocks = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", README.read_text(), re.DOTALL)
    assert [name for _, name in blocks] == ["conftest.py", "test_claims.py"]
    for text, name in blocks:
        (pytester.path / name).write_text(text)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-n0")
    result.assert_outcomes(passed=1, xfailed=2)
    shown = re.search(r"```text\n(=+ claims =+\n.*?)```", README.read_text(), re.DOTALL)
    printed = "\n".join(result.outlines)
    for line in shown[1].splitlines()[1:]:
        assert line in printed, f"the README shows a line that the run does not print: {line}"
