"""Causal models: programs over features, what they predict of interchanged variables, and the claim
that parts of a network hold their variables.

The meaning follows Geiger et al., "Causal Abstractions of Neural Networks" (2021): a part of the
network that holds a variable is given the value it has on another input, and the network has to
answer what the program answers with that variable given the other input's value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_scrub.common.calls import short_repr
from pytest_scrub.common.programs import Program
from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.errors import HypothesisError, Place, did_you_mean, located_at
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, output
from pytest_scrub.tree.predictions import REFERENCE_ARGUMENT, Predicts

ANSWER = "answer"
RESERVED = (REFERENCE_ARGUMENT, "rivals")

Row = Mapping[str, Any]  # the features of one input of each reference, arrays `[batch]`


class CausalModel:
    """A program that a network is claimed to compute.

    ```python
    CausalModel(
        carry=lambda ones: ones // 10,
        answer=lambda tens, carry: (tens + carry) % 10,
    )
    ```

    Every function is called with arrays `[batch]` and returns one; its parameters say what it
    reads. Names that are no variable are features of the dataset.

    **Arguments**

    - `variables`: name to function; one of them is called `answer` and returns the label.

    **Raises** `HypothesisError` without an `answer`, for a circle, for a variable that the answer
    does not depend on, or for parameters that are not plain names.
    """

    def __init__(self, **variables: Callable[..., Any]) -> None:
        if ANSWER not in variables:
            raise HypothesisError(
                f"a CausalModel needs a variable called {ANSWER!r}, the label that it predicts; it "
                f"has {', '.join(variables) or 'none'}"
            )
        self.variables: Mapping[str, Callable[..., Any]] = variables
        self.program = Program(
            variables, what="variable", reads="variables and features", kind=HypothesisError
        )
        self.names = self.program.order
        for name in RESERVED:
            if name in self.names:
                raise HypothesisError(
                    f"a CausalModel has no variable or feature called {name!r}, which means "
                    "something else to what is made of it; call it otherwise"
                )
        read = {name for names in self.program.arguments.values() for name in names}
        for name in variables:
            if name not in read and name != ANSWER:
                raise HypothesisError(
                    f"nothing reads the variable {name!r}, so the answer does not depend on it; "
                    "leave it out, or name it among the arguments of what depends on it"
                )

    def values(self, features: Row, given: Mapping[str, Any]) -> dict[str, Any]:
        """All variables, and the features that they read, where those of `given` have these values
        whatever they would be."""
        values: dict[str, Any] = {}
        for name in self.names:
            if name in given:
                values[name] = given[name]
            elif name not in self.variables:
                values[name] = features[name]
            else:
                values[name] = self._called(name, [values[a] for a in self.program.arguments[name]])
        return values

    def _called(self, name: str, arguments: Iterable[Any]) -> np.ndarray[Any, Any]:
        # what it changes in place is read by others too
        copies = [np.array(argument) for argument in arguments]
        found = call_user_function(
            f"the variable {name!r}", self.variables[name], *copies, kind=HypothesisError
        )
        value = np.asarray(found)
        rows = {len(copy) for copy in copies}
        if value.ndim == 0 or (rows and {len(value)} != rows):
            raise HypothesisError(
                f"the variable {name!r} has to return an array with one value for each row, not "
                f"{short_repr(found)}"
            )
        if name == ANSWER and (value.ndim != 1 or value.dtype.kind not in "biu"):
            raise HypothesisError(
                f"the variable {ANSWER!r} has to return integer labels [batch], not {value.dtype} "
                f"of shape {value.shape}"
            )
        return value


def aligned(
    model: CausalModel,
    /,
    *,
    rivals: Mapping[str, CausalModel] | None = None,
    **alignment: Node,
) -> Node:
    """The claim that parts of the network hold variables of a causal model.

    Every part takes its value from an input of its own, along every path, and all else is the
    reference's; the network has to answer what the model does with these variables from those
    inputs. So all of them are exchanged at once; *which nodes* exchanges some.

    **Arguments**

    - `model`: the program.
    - `rivals`: other programs, by name, which the network has to answer less often than `model`
      where the two differ. Of what a rival does not have, it predicts that nothing changes.
    - `alignment`: variable, or feature that the model reads, to a node that says where it is, such
      as `stream(2, pos=5, subspace=R)`. `agrees_on=` restricts its donors.

    **Raises** `HypothesisError` for what is no variable, and for a node that says more.
    """
    __tracebackhide__ = True
    place = Place.of_call()
    others = {} if rivals is None else rivals
    if not isinstance(others, Mapping):
        raise HypothesisError(f"rivals= maps names to CausalModels, not {short_repr(others)}")
    rival_models = {f"the rival {name!r}": rival for name, rival in others.items()}
    for what, one in {"the first argument of aligned": model, **rival_models}.items():
        if not isinstance(one, CausalModel):
            raise HypothesisError(
                f"{what} is a CausalModel(answer=lambda ...: ...), not {short_repr(one)}"
            )
    if not alignment:
        raise HypothesisError(
            "aligned got no alignment; say where a variable is, such as "
            f"{model.names[-1]}=stream(2)"
        )
    parts = [_part(model, name, node) for name, node in alignment.items()]
    predicts = predicting(model, alignment)
    theirs = {name: predicting(one, alignment) for name, one in others.items()}
    root = output(*parts, rest=EXACT, predicts=predicts, rivals=theirs)
    return replace(root, place=place)


def _part(model: CausalModel, name: str, node: Any) -> Node:
    """The child that holds a variable."""
    if name not in model.names:
        raise HypothesisError(
            f"the causal model has no variable {name!r}{did_you_mean(name, model.names)}; it has "
            f"{', '.join(model.names)}"
        )
    if not isinstance(node, Node):
        raise HypothesisError(
            f"{name}= of aligned is a node that says where the variable is, such as stream(2), not "
            f"{short_repr(node)}"
        )
    with located_at(node):
        if node.reads or node.name is not None or node.via == "direct":
            has = "reads=" if node.reads else "name=" if node.name is not None else "via="
            raise HypothesisError(
                f"{node.component} has {has}, but what is aligned with a variable is a leaf that "
                f"is called after it and read along every path; leave {has} out"
            )
    return replace(node, agrees_on=node.agrees_on or ANYTHING, via="any", name=name)


def predicting(model: CausalModel, variables: Iterable[str]) -> Predicts:
    """The answer of the model on the reference, with these variables as on the inputs of the nodes
    that are called after them."""
    names = tuple(variables)

    def predicted(reference: Row, *donors: Row) -> np.ndarray[Any, Any]:
        given = {
            name: model.values(donor, {})[name]
            for name, donor in zip(names, donors, strict=True)
            if name in model.names
        }
        answer: np.ndarray[Any, Any] = model.values(reference, given)[ANSWER]
        return answer

    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD
    predicted.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, by_name) for name in (REFERENCE_ARGUMENT, *names)]
    )
    predicted.__name__ = f"a causal model of {', '.join(model.variables)}"
    return predicted
