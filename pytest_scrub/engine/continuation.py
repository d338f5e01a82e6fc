"""What a network says after a prompt in which something was swapped: greedy, token by token.

A swap holds while the prompt is read. So every token is the answer of a run on the prompt with all
tokens before it, in which the children of the output are replaced at the positions of the prompt,
as they are in a run on the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.data.names import MASK, TOKEN_NAMES
from pytest_scrub.engine.checks import CheckedHypothesis
from pytest_scrub.engine.plan import Step
from pytest_scrub.engine.row_independence import difference_in_words, relative_difference
from pytest_scrub.errors import DataError, HypothesisError, ModelError, ScrubError, first_line
from pytest_scrub.metrics import Metric
from pytest_scrub.network.graph import PROOF_ROWS, Edit, Inputs, Site, Where, select
from pytest_scrub.tree.nodes import ROOT
from pytest_scrub.tree.units import shown


@dataclass(frozen=True)
class _Run:
    """Clean activations of inputs that are in no dataset; its rows are numbered from 0."""

    kept: Mapping[Site, Tensor]
    given: Inputs

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        return select(self.kept[site][rows], where if site.positions is None else None)

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: tensor[rows] for name, tensor in self.given.items()}

    @property
    def input_names(self) -> Collection[str]:
        return self.given.keys()


class Continuation:
    """The next tokens after prompts of a dataset, by a network in which a hypothesis swaps.

    **Raises** `DataError`, `HypothesisError` or `ModelError` where there is nothing that goes on,
    or where it is not known what a swap of the prompt is in a longer text.
    """

    def __init__(self, checked: CheckedHypothesis, plan: Step, metric: Metric) -> None:
        self.graph, self.dataset, self.plan = checked.graph, checked.dataset, plan
        self.tokens, self._what = metric.tokens, f"the metric {metric.name}"
        self.name = self._token_input()
        self.length = self.dataset.inputs[self.name].shape[1]
        self._require_logits(checked)
        self._require_open_ends()
        self._require_readable(checked)
        self._is_proved = self.tokens == 1  # then no text is longer than its prompt
        self._pads_alike = MASK not in self.dataset.inputs
        contents = int(self.dataset.content.max()) + 1
        self._content = torch.tensor(self.dataset.content, device=self.dataset.device)
        device = self.dataset.device
        self._clean = torch.zeros(contents, self.tokens, dtype=torch.int64, device=device)
        self._is_known = torch.zeros(contents, dtype=torch.bool, device=device)

    @property
    def passes(self) -> int:
        """Of the network for one swap: one for each token, and after the first one more for clean
        activations of the longer text, where a rerun begins with some."""
        edits = self.plan.edits
        begins = bool(edits) and bool(self.graph.reader(ROOT, edits, None).sites)
        return self.tokens + begins * (self.tokens - 1)

    # What can go on -------------------------------------------------------------------------------

    def _token_input(self) -> str:
        inputs = self.dataset.inputs
        names = [name for name in TOKEN_NAMES if name in inputs]
        others = sorted({*inputs} - {*names, MASK})
        if len(names) != 1 or others or inputs[names[0]].ndim != 2:
            raise DataError(
                f"{self._what} goes on with the tokens of one text, 'tokens' or 'input_ids' "
                f"[rows, positions], perhaps beside an {MASK!r}, and the dataset's inputs are "
                f"{', '.join(map(repr, sorted(inputs)))}; leave the others out, or take a metric "
                "of logits"
            )
        return names[0]

    def _require_logits(self, checked: CheckedHypothesis) -> None:
        has = list(checked.example(ROOT).shape[1:])
        if len(has) != 2 or has[0] != self.length:
            raise ModelError(
                f"{self._what} needs logits of the next token at each of {self.length} positions, "
                f"and {self.graph.source} gives {has} for a row; take another metric"
            )
        if has[1] < (self.graph.vocabulary or 0):
            raise ModelError(
                f"{self._what} is of tokens that are read again, and {self.graph.source} reads "
                f"{self.graph.vocabulary} and gives {has[1]} logits; take another metric"
            )

    def _require_open_ends(self) -> None:
        mask = self.dataset.inputs.get(MASK)
        if mask is not None and not bool((mask[:, -1] != 0).all()):
            row = int((mask[:, -1] == 0).nonzero()[0])
            raise DataError(
                f"{self._what} goes on after the last position, and row {row} is padded there; pad "
                "on the left"
            )

    def _require_readable(self, checked: CheckedHypothesis) -> None:
        for child in self.plan.children:
            if not checked.is_anywhere(child.node):
                raise HypothesisError(
                    f"{child.path}: {self._what} is of tokens that are said after the prompt, so "
                    "what the output reads is read along every path; say via='any' of it"
                )
            for name in child.node.components:
                if checked.graph.parts[name].divisible:
                    continue
                value = checked.example(name)
                if value.ndim < 2 or value.shape[1] != self.length or value.dtype == torch.bool:
                    raise HypothesisError(
                        f"{child.path}: {self._what} is of a text that grows, and {shown(name)} "
                        f"has no numbers at each of its {self.length} positions; claim something "
                        "that has"
                    )

    def _require_same_without_padding(self) -> None:
        """**Raises** `DataError` where padding on the left changes what is said: `generate()` does
        not count it among the positions, and a run of the network may."""
        if self._pads_alike:
            return
        seen = self.dataset.inputs[MASK] != 0
        widths = seen.int().argmax(1).cpu().numpy()
        _, rows = np.unique(widths, return_index=True)
        for row in rows[widths[rows] > 0][:PROOF_ROWS]:
            padded = self.dataset.batch([row])
            alone = {name: tensor[:, widths[row] :] for name, tensor in padded.items()}
            own, without = (self.graph.run(inputs)[:, -1] for inputs in (padded, alone))
            if relative_difference(own, without, without):
                raise DataError(
                    f"{self._what}: {self.graph.source} counts padding among its positions, so "
                    f"after row {row}, which is padded on the left, it says something else than "
                    "generate(), which does not count it; give prompts of one length, or a network "
                    "whose positions are relative"
                )
        self._pads_alike = True

    # What goes on ---------------------------------------------------------------------------------

    def swapped(self, first: Tensor, carriers: Tensor, values: Sequence[Tensor]) -> Tensor:
        """int64 `[B, tokens]`: what is said after the prompts of carriers where values of the
        output's children are put in.

        - `first`: the logits `[B, classes]` after the prompt.
        """
        edits = tuple(replace(edit, at=self._at(edit, carriers)) for edit in self.plan.edits)
        return self._said(first, carriers, edits, values)

    def clean(self, rows: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """int64 `[B, tokens]`: what is said after the prompts of rows, each content once.

        - `logits`: those after the prompt.
        """
        content = self._content[rows]
        new = rows[~self._is_known[content]]
        if len(new):
            first = np.unique(self.dataset.content[new.cpu().numpy()], return_index=True)[1]
            new = new[torch.as_tensor(first, device=new.device)]
            self._clean[self._content[new]] = self._said(logits(new), new, (), ())
            self._is_known[self._content[new]] = True
        return self._clean[content]

    def _at(self, edit: Edit, carriers: Tensor) -> Positions:
        """Where in the text of each carrier a value is put: nowhere after its prompt."""
        if edit.at is None:
            return Positions(np.arange(self.length))
        return edit.at if edit.at.static else Positions(edit.at.index[carriers.cpu().numpy()])

    def _said(
        self, first: Tensor, carriers: Tensor, edits: Sequence[Edit], values: Sequence[Tensor]
    ) -> Tensor:
        self._require_same_without_padding()
        prompts, said = self.dataset.batch(carriers), self._best(first)[:, None]
        rows = torch.arange(len(carriers), device=carriers.device)
        while said.shape[1] < self.tokens:
            self._prove(prompts, first.shape[-1])
            last = Positions(np.array([self.length + said.shape[1] - 1]))
            reader, inputs = self.graph.reader(ROOT, edits, last), self._longer(prompts, said)
            run = _Run(self.graph.capture(reader.sites, inputs) if reader.sites else {}, inputs)
            at = torch.as_tensor(last.index, device=rows.device)
            logits = reader.value(run, rows, at, values)[:, 0]
            said = torch.cat([said, self._best(logits)[:, None]], dim=1)
        return said

    def _best(self, logits: Tensor) -> Tensor:
        if logits.isnan().any():
            raise ModelError(
                f"{self.graph.source}: logits of {self._what} are NaN; mend the weights"
            )
        return logits.argmax(-1)

    def _longer(self, prompts: Inputs, said: Tensor) -> dict[str, Tensor]:
        """Prompts with what was said after each."""
        inputs = dict(prompts)
        inputs[self.name] = torch.cat([prompts[self.name], said.to(prompts[self.name].dtype)], 1)
        if MASK in inputs:
            seen = torch.ones_like(said, dtype=inputs[MASK].dtype)
            inputs[MASK] = torch.cat([inputs[MASK], seen], 1)
        return inputs

    def _prove(self, prompts: Inputs, classes: int) -> None:
        """**Raises** `ModelError` where texts are too long, where the last of all classes is no
        token, or where what is read of a prompt is another thing in a longer text, once."""
        if self._is_proved:
            return
        few = {name: tensor[:PROOF_ROWS] for name, tensor in prompts.items()}
        ids = prompts[self.name][:PROOF_ROWS]
        more = ids.new_full((len(ids), self.tokens - 1), classes - 1)
        try:
            after = self.graph.run(self._longer(few, more))[:, : self.length]
        except ScrubError:
            raise
        # whatever a network makes of what it is not made for
        except Exception as error:
            raise ModelError(
                f"{self.graph.source} cannot be run on a prompt and {self.tokens - 1} more "
                f"tokens {classes - 1}, the last that it may say: {first_line(error)}; take fewer "
                "tokens, shorter prompts, or a metric of logits"
            ) from error
        before = self.graph.run(few)
        if MASK in few:  # what padding reads is read by nobody
            seen = few[MASK] != 0
            before, after = before[seen], after[seen]
        if off := relative_difference(after, before, before):
            raise ModelError(
                f"{self.graph.source}: what it makes of a prompt differs "
                f"{difference_in_words(off)} where more tokens follow, so a swap that holds while "
                "the prompt is read is none in a longer text; take a causal network, or a metric "
                "of logits"
            )
        self._is_proved = True
