"""Whatever `@claim` is put on is a test, or an error that says why it cannot be one: no claim
vanishes."""

from __future__ import annotations

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick

RETURNED = 'return output(module("B", agrees_on="b"))'  # refuted

# What is collected and refuted, however it was written.
CLAIMS = {
    "lambda": 'test_it = claim(tolerance=0.01)(lambda: output(module("B", agrees_on="b")))',
    "partial": """
        import functools
        def hypothesis(name):
            return output(module(name, agrees_on="b"))
        test_it = claim(tolerance=0.01)(functools.partial(hypothesis, "B"))
    """,
    "callable instance": f"""
        class Hypothesis:
            def __call__(self):
                {RETURNED}
        test_it = claim(tolerance=0.01)(Hypothesis())
    """,
    "bound method": f"""
        class Hypotheses:
            def first(self):
                {RETURNED}
        test_it = claim(tolerance=0.01)(Hypotheses().first)
    """,
    "decorated": f"""
        import functools
        def decorated(function):
            @functools.wraps(function)
            def call(*args, **named):
                return function(*args, **named)
            return call
        @claim(tolerance=0.01)
        @decorated
        def test_it(scrub_seed):
            {RETURNED}
    """,
    **{
        f"{outer} and {inner}": f"""
            class TestIt:
                @{outer}
                @{inner}
                def test_it({argument}):
                    {RETURNED}
        """
        for kind, argument in (("staticmethod", "scrub_seed"), ("classmethod", "cls, scrub_seed"))
        for outer, inner in ((kind, "claim(tolerance=0.01)"), ("claim(tolerance=0.01)", kind))
    },
    "method": f"""
        class TestIt:
            @claim(tolerance=0.01)
            def test_it(self, scrub_seed):
                {RETURNED}
    """,
}

# What ends the collection, with one sentence.
REFUSED = {
    "class": (
        "@claim(tolerance=1)\nclass TestIt: ...",
        "@claim stands on a function, not on a class; put it on every",
    ),
    "hypothesis": (
        "test_it = claim(tolerance=1)(output())",
        "on a function that returns a hypothesis, not on Node",
    ),
    "builtin": (
        "test_it = claim(tolerance=1)(len)",
        "a function that returns a hypothesis, not on builtin_function",
    ),
    "fixture": (
        "@claim(tolerance=1)\n@pytest.fixture\ndef test_it(): ...",
        "@claim stands on a test, and test_it is a fixture; let a test take it as an argument",
    ),
    "async": (
        "@claim(tolerance=1)\nasync def test_it(): ...",
        "test_it is async, and a claim is a plain function",
    ),
    "generator": (
        "@claim(tolerance=1)\ndef test_it():\n    yield output()",
        "test_it is a generator, and a claim is",
    ),
    "async generator": (
        "@claim(tolerance=1)\nasync def test_it():\n    yield output()",
        "test_it is an async generator, and a claim is",
    ),
    "twice": (
        "@claim(tolerance=0.01)\n@claim(tolerance=1)\ndef test_it(): ...",
        "test_it has @claim twice, and one of them would be ignored; leave one",
    ),
    **{
        arguments: (
            f"@claim(tolerance=1)\ndef test_it({arguments}): ...",
            f"pytest gives none to {named} of test_it; name each of them",
        )
        for arguments, named in (
            ("*args", "*args"),
            ("**named", "**named"),
            ("scrub_seed, /", "scrub_seed"),
        )
    },
    "option": (
        "@claim(tolerence=1)\ndef test_it(): ...",
        "claim takes no tolerence=; did you mean 'tolerance'?",
    ),
    "name of no fixture": (
        "@claim(tolerance=1, data='my data')\ndef test_it(): ...",
        "data= of @claim takes the name of a fixture, which 'my data' cannot be",
    ),
}

NOT_CALLED = (
    "a claim is called by pytest, with its fixtures; it is no helper of other tests, and "
    "no method of unittest"
)

# What is only seen when it runs.
FAILS = {
    "method of a TestCase": (
        f"""
            import unittest
            class TestIt(unittest.TestCase):
                @claim(tolerance=1)
                def test_it(self):
                    {RETURNED}
        """,
        NOT_CALLED,
    ),
    "helper": (
        f"""
            @claim(tolerance=1)
            def hypothesis():
                {RETURNED}
            def test_it():
                hypothesis()
        """,
        NOT_CALLED,
    ),
    "nothing returned": (
        """
            @claim(tolerance=1)
            def test_it():
                output()
        """,
        "the claim returned NoneType, not a hypothesis; return output(...) with what it reads "
        "(test_claims.py:",
    ),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_it_is_judged(suite: Suite, claim: str) -> None:
    suite.write(claim)
    ran = suite.run()
    assert (ran.result.ret, ran.outcomes) == (pytest.ExitCode.TESTS_FAILED, {"failed": 1})
    assert ran.verdicts["test_it"].outcome == "refuted"
    assert ran.messages["test_it"].startswith("Refuted: ")


@few_in_quick(6)
@pytest.mark.parametrize(("claim", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_it_ends_the_collection(suite: Suite, claim: str, says: str) -> None:
    suite.write(f"def test_other(): ...\n{claim}\n")
    ran = suite.run()
    assert (ran.result.ret, ran.outcomes) == (pytest.ExitCode.INTERRUPTED, {"errors": 1})
    assert says in ran.text
    assert "pytest_scrub/" not in ran.text


@pytest.mark.parametrize(("claim", "says"), FAILS.values(), ids=FAILS.keys())
def test_it_fails_when_it_runs(suite: Suite, claim: str, says: str) -> None:
    suite.write(claim)
    ran = suite.run()
    assert (ran.result.ret, ran.outcomes) == (pytest.ExitCode.TESTS_FAILED, {"failed": 1})
    assert says in ran.messages["test_it"]
    assert "pytest_scrub/" not in ran.text


@pytest.mark.parametrize("args", [(), ("-n1",)])
def test_a_mark_alone_is_no_claim(suite: Suite, args: tuple[str, ...]) -> None:
    """It would pass, unchecked, among the claims of the reports."""
    suite.write(f"@pytest.mark.claim(tolerance=0.01)\ndef test_it():\n    {RETURNED}\n")
    ran = suite.run(*args, alone=bool(args))
    assert (ran.result.ret, ran.outcomes) == (pytest.ExitCode.TESTS_FAILED, {"errors": 1})
    assert "the mark claim checks nothing by itself; write @claim" in ran.messages["test_it"]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_it_is_listed(suite: Suite, claim: str) -> None:
    path = suite.write(claim)
    ran = suite.run("--scrub-list", "-q")
    assert f"{path.name}::" in ran.text
    assert "tolerance=0.01" in ran.text
