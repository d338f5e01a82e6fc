"""What was measured, and what came of it, in plain values. Everything that reports reads only
this."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import pytest_scrub
from pytest_scrub.common.records import UNKNOWN_ENDS, as_plain_dict, parse_json, read_record

SCHEMA_VERSION: Final = 1

HELD: Final = "held"
REFUTED: Final = "refuted"
UNDECIDED: Final = "undecided"
UNTESTED: Final = "untested"
WEAK: Final = "weak"
Decided = Literal["held", "refuted", "undecided"]
OnAverage = Literal[Decided, "untested"]
Outcome = Literal[OnAverage, "weak"]


# One word for a claim that was refuted, but not on average.
FELL: Final = "fell"
Word = Literal[Outcome, "fell"]


def word_of(outcome: Outcome, average: OnAverage) -> Word:
    """The outcome in a word, where to be refuted on average and to fall to a search are two."""
    return FELL if outcome == REFUTED and average != REFUTED else outcome


def result_of(outcome: Outcome, average: OnAverage) -> str:
    """The same in words."""
    word = word_of(outcome, average)
    return f"{average} on average, fell to the search" if word == FELL else word


class Mark(NamedTuple):
    """What tells an outcome from others in reports: a colour of terminals, and a sign."""

    colour: str
    sign: str


OUTCOMES: dict[Word, Mark] = {  # what asks for a look first
    REFUTED: Mark("red", "✖"),
    FELL: Mark("red", "▼"),
    WEAK: Mark("yellow", "▲"),
    UNDECIDED: Mark("yellow", "◆"),
    UNTESTED: Mark("yellow", "□"),
    HELD: Mark("green", "●"),
}
Worse = Literal["higher", "lower", "either"]
# why a claim is undecided
TOO_FEW, ROUNDED, STRADDLES = "too few draws", "rounding", "straddles"
NO_ROOM = "no room"
# why a claim has no null
NO_FEATURE = (
    "no node names a feature that could know anything: the claim says that something does not "
    "matter"
)
HURTS = "the claim says that swaps hurt, which no feature explains; controls judge it"
# an interval without ends, as text, and why it has none
UNKNOWN = "[?, ?]"
WHY_UNKNOWN = "no interval is known, as too few draws differ from the others"
if TYPE_CHECKING:
    End = float
else:  # in JSON, which has no infinity
    End = float | None


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval, in the metric's unit; see `Verdict.confidence`.

    - `mean`: of what was drawn.
    - `low`, `high`: the ends of the interval; infinite, and None in JSON, where too few values were
      seen to know them.
    - `exact`: it is of all that there are, so that it has no interval: both ends are the mean.
    """

    mean: float
    low: End
    high: End
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for end, far in UNKNOWN_ENDS.items():
            if getattr(self, end) is None:  # as it was read
                object.__setattr__(self, end, far)

    def __str__(self) -> str:
        return format(self)

    def __format__(self, digits: str) -> str:
        digits = digits or ".4g"
        if self.exact:
            return f"{self.mean:{digits}} (exact)"
        ends = f"[{self.low:{digits}}, {self.high:{digits}}]" if self.is_known else UNKNOWN
        return f"{self.mean:{digits}} {ends}"

    def __add__(self, shift: float) -> Estimate:
        ends = self.low + shift, self.high + shift
        return Estimate(self.mean + shift, *ends, exact=self.exact)

    @property
    def is_known(self) -> bool:
        """Whether the interval has ends."""
        return math.isfinite(self.around)

    @property
    def around(self) -> float:
        """The larger distance of an end from the mean."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclass(frozen=True)
class Share:
    """How large the change of nearly all allowed swaps is at most, from `draws` independent draws.

    With the verdict's confidence at least `share` of the allowed swaps change the metric by no more
    than `within`, and at least `tolerated` of them by no more than the tolerance; where it is
    `exact`, from all that there are and their probabilities, and without a doubt.
    """

    share: float
    within: float
    tolerated: float
    draws: int
    exact: bool = False


@dataclass(frozen=True)
class NodeReport:
    """How one slot was tested.

    - `slot`: the path of its node, such as `output/head1.0`; `is_rest`: whether it is that node's
      rest.
    - `agrees_on`: what its donors agree on.
    - `donors`: least, median and most allowed donors of a reference, the row itself included.
    - `with_other`: share of references that have a donor of other content.
    - `moved`: share of drawn donors on which what is read of a leaf differs from that on the
      parent's own input; of rests and of nodes that are no leaves, those of other content.
    - `must_be_tested`: whether too little of it makes the claim untested.
    - `is_tested`: whether both shares are at least what the claim asks for.
    - `alone`: the gap when only this slot is swapped; None where it was not measured.
    - `wanting`: some values of its features that only one input has, where it is not tested.
    - `fixed`: what is read never differed, though donors did: it is fixed by what they agree on, so
      that it holds is no evidence.
    - `silent`: of a leaf's units those that hold zero on every row that was looked at.
    - `made_up_by`: the nodes at the same place that, swapped with it, make up for all it changes.
    - `unknowing`: the gap when the features of this slot alone know nothing, all others as claimed;
      None where it names none that the null permutes.
    - `says_nothing`: that gap is not told from the claim's own.
    """

    slot: str
    agrees_on: str
    is_rest: bool
    donors: tuple[int, float, int]
    with_other: float
    moved: float
    must_be_tested: bool
    is_tested: bool
    alone: Estimate | None
    wanting: tuple[str, ...] = ()
    fixed: bool = False
    silent: tuple[int, ...] = ()
    made_up_by: tuple[str, ...] = ()
    unknowing: Estimate | None = None
    says_nothing: bool = False


@dataclass(frozen=True)
class CircuitNode:
    """One node of the hypothesis, where it lies in the network.

    - `path`: as in slots, such as `output/head1.0[k]`; `parent`: that of the node that reads it,
      None for the output.
    - `components`: what it is of the network; `into`: the slot of its parent, such as `"k"`, None
      where it has but one.
    - `level`: which of the circuit's levels its component is on, the highest of a group.
    - `agrees_on`: None for an output that takes no donor; `rest`: None for a leaf.
    - `positions`, `subspace`: in words, None for all of it.
    - `along_every_path`: whether it is read by way of others as well.
    - `is_computed`: whether a function stands in for its activation.
    - `predicts`: of the output, which label swaps lead to, where that is not the reference's own.
    - `edited`: by what its activation is changed, and takes no donor.
    """

    path: str
    parent: str | None
    components: tuple[str, ...]
    level: int
    into: str | None
    agrees_on: str | None
    rest: str | None
    positions: str | None
    subspace: str | None
    along_every_path: bool
    is_computed: bool
    predicts: str | None = None
    edited: str | None = None


@dataclass(frozen=True)
class Circuit:
    """The hypothesis as a drawing.

    - `levels`: of the network, from its input to its output; `nodes`: those of the hypothesis, each
      on a level.
    """

    levels: tuple[str, ...]
    nodes: tuple[CircuitNode, ...]


@dataclass(frozen=True)
class Look:
    """How the claim stood when it was looked at: the `gap` after so many `samples`."""

    samples: int
    gap: Estimate


@dataclass(frozen=True)
class Slice:
    """The references with one value of a feature.

    - `value`: of the feature, as text.
    - `references`: how many the dataset has; `samples`: how many were drawn.
    - `gap`: with an interval that is corrected for the number of slices; None where nothing was
      drawn.
    - `outcome`: against the tolerance for slices, None where there is none.
    - `undecided`: why it is undecided, as in a `Verdict`.
    """

    value: str
    references: int
    samples: int
    gap: Estimate | None
    outcome: Decided | None
    undecided: str | None = None


@dataclass(frozen=True)
class Slices:
    """The gap by the values of a feature.

    - `by`: the feature; `slices`: one for each value, worst first.
    - `tolerance`: the largest gap that a slice may have, None where none gates.
    """

    by: str
    tolerance: float | None
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class MutantReport:
    """One false claim made from this one.

    - `kind`, `node`, `what`: how it was made, such as `"dropped"`, `"output/head1.0"`, and the
      change in words.
    - `outcome`: of the mutant, judged like the claim; `gap` is its mean gap, or the worst that was
      found.
    - `means`: what it says of the claim where it was not refuted.
    """

    kind: str
    node: str
    what: str
    outcome: OnAverage
    gap: float
    means: str


@dataclass(frozen=True)
class Power:
    """How much a claim says: how many false claims made from it are refuted.

    - `mutants`: those that were judged.
    - `equivalent`: how many more allow just what the claim allows, or swap nothing that it does
      not.
    - `left_out`: how many more were not judged, as there are too many.
    - `required`: the least power that the claim asks for, or None.
    """

    mutants: tuple[MutantReport, ...]
    equivalent: int
    left_out: int
    required: float | None

    @property
    def refuted(self) -> int:
        """How many mutants were refuted."""
        return sum(mutant.outcome == REFUTED for mutant in self.mutants)

    @property
    def power(self) -> float | None:
        """The share of the mutants that was refuted, or None where there was none."""
        return self.refuted / len(self.mutants) if self.mutants else None

    @property
    def survivors(self) -> tuple[MutantReport, ...]:
        """The mutants that were not refuted."""
        return tuple(mutant for mutant in self.mutants if mutant.outcome != REFUTED)


@dataclass(frozen=True)
class Control:
    """The same claim where it should not hold: of what was drawn what comes nearest to it.

    - `name`: what was changed.
    - `outcome`, `gap`: of the claim there; None where it could not be judged.
    - `note`: why it could not, or why that it holds there says nothing; of several that were drawn,
      how many do as well.
    - `passed`: whether it says nothing against the claim.
    - `accuracy`: there, as in `Predicted`; None where no label is predicted.
    - `remedy`: what would tell more, of one that did not pass, where there is something.
    """

    name: str
    outcome: OnAverage | None
    gap: float | None
    note: str | None
    passed: bool
    accuracy: float | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Attempt:
    """What one adversary found.

    - `adversary`: its name; `how`: the search in words, or why there was none.
    - `searched`: whether there was one.
    - `gap`: mean change of the metric over the `references` of the worst swap set found; None
      without a search.
    - `unscrubbed`, `scrubbed`: mean metric on these references, or None.
    - `interval`: of that mean over references; a point where all were searched.
    - `exhaustive`: every combination of allowed donors was evaluated.
    - `evaluations`: scrubbed evaluations spent, a gradient counting as three.
    - `ranking`: what else was computed to choose what to evaluate, in clean forward passes of one
      input.
    - `concentration`: share of the references in which one of its ten most used donors takes part,
      or None.
    - `late`: a deadline ended the search before its budget did.
    - `refutes`: whether it lies beyond the adversarial tolerance.
    - `changes`: percentiles (0, 1, ... 100) of the change of single references; empty where nothing
      was searched.
    - `curve`: (evaluations, mean gap of the worst so far) along the search.
    - `pointwise`: whether these are the worst swaps found for each reference, rather than draws
      from a distribution that was chosen on other rows.
    - `outcome`: whether the mean lies within the `bound`, in the metric's unit, or beyond it; None
      where nothing was searched.
    - `of_null`: what the same search finds for the null, where the bound is a share of it.
    - `longer`: the interval that decides where it is longer than `interval`, as few references have
      not seen all of a long tail; else None.
    """

    adversary: str
    how: str
    searched: bool
    gap: float | None
    interval: Estimate | None
    unscrubbed: float | None
    scrubbed: float | None
    references: int
    exhaustive: bool
    evaluations: int
    ranking: float
    concentration: float | None
    late: bool
    refutes: bool
    changes: tuple[float, ...] = field(default=(), repr=False)
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    pointwise: bool | None = None
    outcome: Decided | None = None
    bound: float | None = None
    of_null: Estimate | None = None
    longer: Estimate | None = None

    @property
    def deciding(self) -> Estimate | None:
        """The interval that decides."""
        return self.longer or self.interval

    @property
    def found(self) -> float:
        """The gap of an attempt that searched."""
        assert self.gap is not None
        return self.gap

    def told(self, gap: Estimate) -> str:
        """A mean that it found, as text: where all references were searched, but not all of their
        swaps, that is exact, and the worst there is may be worse."""
        return str(gap) if self.exhaustive else str(gap).replace("(exact)", "(all references)")


@dataclass(frozen=True)
class Attention:
    """Where a head looks on both inputs of a swap, by itself.

    - `head`: its name.
    - `own`, `donor`: data URIs, with a pixel for each query, downwards, and each key, as opaque as
      its probability; positions that are padded are left out.
    - `own_words`, `donor_words`: what stands at these positions; empty where the dataset does not
      say that of each.
    """

    head: str
    own: str
    donor: str
    own_words: tuple[str, ...] = ()
    donor_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Swap:
    """One donor of a counterexample, as a person reads it.

    - `slot`: where it stands in; `own`, `donor`: the input it stands in for, and itself.
    - `agrees_on`: what the claim asks of the donor; `also`: the dataset's other features that are
      equal as well.
    - `differs`: where the two inputs differ.
    - `own_picture`, `donor_picture`: data URIs, where the dataset shows images.
    - `own_output`, `donor_output`: the largest outputs of the untouched network on both; None where
      the metric's position is not known of one.
    - `attention`: of the slot's first heads.
    """

    slot: str
    agrees_on: str
    own: str
    donor: str
    also: tuple[str, ...]
    differs: str
    own_picture: str | None = None
    donor_picture: str | None = None
    own_output: str | None = None
    donor_output: str | None = None
    attention: tuple[Attention, ...] = ()


@dataclass(frozen=True)
class Counterexample:
    """A swap set that breaks a claim, pruned to one reference and the fewest nodes found.

    - `found_by`: the adversary whose swap set was pruned, or `"the claim's own draws"`.
    - `reference`: the reference as the dataset shows it.
    - `swaps`: the donors that differ from what they stand in for.
    - `unscrubbed`, `scrubbed`: the metric of that reference; `gap` is their difference.
    - `clean_output`, `scrubbed_output`: the largest outputs.
    - `file`: where it was saved, if it was.
    - `picture`: the reference as a data URI, where the dataset shows images.
    - `predicted`: the label that the claim says these swaps lead to, beside the `label` of the
      reference; None of a claim that predicts no change.
    """

    found_by: str
    reference: str
    swaps: tuple[Swap, ...]
    unscrubbed: float
    scrubbed: float
    gap: float
    clean_output: str
    scrubbed_output: str
    file: str | None = None
    picture: str | None = None
    predicted: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class WorstOfNull:
    """The worst that an adversary finds for the null.

    - `adversary`: its name; `gap`: the mean over references, with its interval.
    - `beyond`: whether that is shown to lie beyond what the claim accepts of what is found.
    """

    adversary: str
    gap: Estimate
    beyond: bool


@dataclass(frozen=True)
class Null:
    """What the claim would be if its features knew nothing, on the same references.

    - `what`: how it differs from the claim, in words.
    - `gap`: its metric minus the unscrubbed one; `absolute_change`: the mean of its absolute
      change.
    - `samples`: references drawn until it was told from the claim, or until it was known that they
      do not tell it.
    - `outcome`: of the null, judged on average as the claim is: `"refuted"` where it is shown to
      lie beyond what the claim accepts.
    - `undecided`: why it is undecided, as in a `Verdict`.
    - `worst`: what the claim's search finds for it, where the average does not tell it from the
      claim.
    - `changes`: percentiles (0, 1, ... 100) of the change of single samples.
    """

    what: str
    gap: Estimate
    absolute_change: float
    samples: int
    outcome: Decided
    undecided: str | None = None
    worst: WorstOfNull | None = None
    changes: tuple[float, ...] = ()

    @property
    def told(self) -> bool:
        """Whether it is shown to lie beyond what the claim accepts."""
        return self.outcome == REFUTED or (self.worst is not None and self.worst.beyond)


@dataclass(frozen=True)
class Answers:
    """How often the network answers as one prediction says, under the swaps that were drawn.

    - `by`: whose: `"the claim"`, a rival's name, `"no change"`, the reference's own label, or
      `"no swap"`, the network's own answer on the reference.
    - `agrees`: the share of swaps with this answer.
    - `differs`: the share for which it is another than the claim's; of these, `agrees_there` have
      this answer, and `claim_there` the claim's. None where there are none.
    """

    by: str
    agrees: float
    differs: float
    agrees_there: float | None
    claim_there: float | None


@dataclass(frozen=True)
class Rival:
    """Another prediction for the same swaps.

    - `name`: of the rival; `differs`: the share of swaps for which it says another label.
    - `gap`: its metric minus the claim's, in the metric's worse direction, over all swaps: above
      zero where the claim predicts better.
    - `outcome`: `"held"` where all of that lies above zero, `"refuted"` where nothing does,
      `"untested"` where the two say the same for too many swaps.
    """

    name: str
    differs: float
    gap: Estimate
    outcome: OnAverage


@dataclass(frozen=True)
class Predicted:
    """What came of a claim that says which label swaps lead to.

    - `changed`: the share of swaps that should change the label; `untested`: why that is too
      little, or a rival too like it; None where it is not.
    - `accuracy`: the share of swaps whose largest output is the predicted label: interchange
      accuracy (Geiger et al. 2021), with the interval of a share of so many `samples`. None where
      outputs are no classes.
    - `answers`: the same for the claim, its rivals, no change, and what the network answers without
      the swap, of `samples` swaps.
    - `rivals`: how each of them does; `changed` and they are of all draws.
    - `decided_by`: the rival that decided the claim, whose gap alone would have it otherwise; None
      where none did.
    """

    changed: Estimate
    untested: str | None
    accuracy: Estimate | None
    answers: tuple[Answers, ...]
    samples: int
    rivals: tuple[Rival, ...] = ()
    decided_by: str | None = None

    @property
    def deciding(self) -> Rival | None:
        """The rival that decided the claim."""
        return next((rival for rival in self.rivals if rival.name == self.decided_by), None)


@dataclass(frozen=True)
class Function:
    """A function of the hypothesis, or the metric, whose name says nothing of what it computes.

    - `what`: such as `"predicts="`, `"metric="` or `"computed_by= of output/head1.0"`.
    - `digest`: of its code, and of what that reads beside its arguments, but for the weights of
      modules; another version of Python has another code. None where that cannot be seen.
    """

    what: str
    digest: str | None


@dataclass(frozen=True)
class Bound:
    """One of the options by which a claim was judged.

    - `what`: its name.
    - `value`: as it was, where nothing was said the usual one; None where it bounded nothing.
    """

    what: str
    value: float | str | bool | None


@dataclass(frozen=True)
class Mend:
    """An addition to a refuted claim: `what` it is, and the mean `gap` that was left with it,
    `where` says of what."""

    what: str
    gap: float
    where: str


@dataclass(frozen=True)
class Search:
    """What the adversaries found about one claim.

    - `tolerance`: the largest mean gap either way that a found swap set may have.
    - `gates`: whether a swap set beyond it refutes the claim, or is only shown.
    - `budget`: evaluations that all of them together might spend; `attempts`: what each of them
      found.
    - `counterexample`: the worst swap set pruned, None where nothing breaks the claim; `mends`:
      what would mend it.
    - `worse`: `"higher"` or `"lower"` where only a gap of that sign counts, else `"either"`.
    - `notes`: what went wrong beside the search, such as a saved counterexample that could not be
      used.
    """

    tolerance: float
    gates: bool
    budget: int
    attempts: tuple[Attempt, ...]
    counterexample: Counterexample | None
    mends: tuple[Mend, ...]
    worse: Worse = "either"
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Attempt | None:
        """The attempt with the largest gap the way that counts; those that refute come first."""
        sign = {"higher": 1, "lower": -1}.get(self.worse)
        searched = [attempt for attempt in self.attempts if attempt.searched]

        def size(attempt: Attempt) -> float:
            return abs(attempt.found) if sign is None else sign * attempt.found

        return max(searched, key=lambda attempt: (attempt.refutes, size(attempt)), default=None)

    @property
    def unsearched(self) -> str | None:
        """Why there is no worst that was found; None where there is."""
        if self.worst is not None:
            return None
        return (
            "; ".join(f"{attempt.adversary}: {attempt.how}" for attempt in self.attempts)
            or "no adversary was asked"
        )

    @property
    def refutes(self) -> bool:
        """Whether an allowed swap set beyond the tolerance was found."""
        return any(attempt.refutes for attempt in self.attempts)

    @property
    def undecided(self) -> Attempt | None:
        """The first attempt whose budget did not decide whether it refutes."""
        return next((one for one in self.attempts if one.outcome == UNDECIDED), None)


class Deciding(NamedTuple):
    """The figure that decided a claim.

    - `gap`: with its interval; `of`: what the claim accepts of it, in the metric's unit.
    - `what`: what it is of, empty for the average.
    """

    gap: Estimate
    of: float
    what: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim, in plain Python values.

    - `claim`: the id of its test; `hypothesis`: it as text; `metric`: its name.
    - `outcome`: `"held"`, `"refuted"`, `"undecided"`, `"untested"`, or `"weak"` where it held and
      says too little; `average` is that of uniformly drawn swaps alone, its slices included. What
      is refuted, and not so on average, fell to the search.
    - `search`: what the adversaries found; None where none was asked.
    - `tolerance`: the largest gap that the claim accepts, in the metric's unit; `direction` is
      `"worse"` where only a worse metric counts, else `"either"`.
    - `unscrubbed`, `scrubbed`: mean metric on the same sampled references.
    - `gap`: scrubbed minus unscrubbed, paired by reference.
    - `absolute_change`: mean of the absolute change per reference, which cancellation does not
      hide.
    - `share_worse`: share of samples whose metric got worse.
    - `share`: what single swaps do, from independent draws; None where they were too few.
    - `baseline`: mean metric when the whole output comes from an unrelated row.
    - `recovered`: 1 - gap / (baseline - unscrubbed), or None; `recovered_reason`: why it is None.
    - `null`: what the claim would be if its features knew nothing; None, with the `null_reason`,
      where it has none or none was judged.
    - `explained`: 1 - gap / (the null's gap), or None; `explained_reason`: why it is None.
    - `confidence`: of the intervals, unless they say otherwise, and of the outcome.
    - `min_gap`: of a claim that swaps hurt the least gap, in the metric's worse direction; then the
      draws are those in which every node moved. Else None.
    - `min_within`: the least share of single swaps that has to stay within the tolerance, or None.
    - `samples`: references drawn until the claim was decided, or, where the gap is exact, all
      allowed swap sets; `budget`: the most that might be.
    - `nodes`: how every slot was tested; `min_with_other`, `min_moved`: the shares below which one
      is untested.
    - `seed`: that all random streams come from; `model`, `dataset`: their names.
    - `model_digest`, `dataset_digest`: of the weights, and of rows, labels and features.
    - `precision`: the number type of the weights and of sums, and the device; metrics are always
      float64.
    - `generalize`: whether every reference counts once, and the interval speaks of where the rows
      came from.
    - `interval_kind`: which swaps and which statistics the interval speaks of.
    - `changes`: percentiles (0, 1, ... 100) of the change of single samples; `looks`: the gap at
      every look.
    - `slices`, `power`, `controls`: where they were asked for.
    - `circuit`: the hypothesis as a drawing.
    - `rounding`: how far off the gap may be, as the network computes with so many digits; a
      hundredth of the tolerance of it decides nothing, and where it is more than that, neither does
      the rest of it.
    - `undecided`: why the average is undecided: `"too few draws"`, `"rounding"`, `"straddles"`
      where the interval holds the tolerance, or `"no room"` where the null costs nothing; None
      where it is not.
    - `indirect`: why everything was read along every path, where that is for the network's own
      reasons; None where nodes were read as they say, or as all are of a network of its kind.
    - `predicted`: of a claim that says which label swaps lead to; None of one that says that
      nothing changes.
    - `metric_worse`: `"higher"` or `"lower"`, which way the metric gets worse.
    - `functions`: those of the hypothesis and the metric, which as text have but their names.
    - `bounds`: all options that make a claim easier or harder to hold, as it was judged by them.
    - `schema_version`: another one for whatever a reader of this one would not understand.
    """

    claim: str
    outcome: Outcome
    average: OnAverage
    hypothesis: str
    metric: str
    tolerance: float
    direction: Literal["either", "worse"]
    unscrubbed: float
    scrubbed: float
    gap: Estimate
    absolute_change: float
    share_worse: float
    share: Share | None
    baseline: float
    recovered: float | None
    recovered_reason: str | None
    samples: int
    budget: int
    generalize: bool
    seed: int
    nodes: tuple[NodeReport, ...]
    min_with_other: float
    min_moved: float
    model: str
    model_digest: str
    precision: str
    dataset: str
    dataset_digest: str
    interval_kind: str
    circuit: Circuit
    changes: tuple[float, ...]
    looks: tuple[Look, ...]
    search: Search | None = None
    slices: Slices | None = None
    power: Power | None = None
    controls: tuple[Control, ...] = ()
    rounding: float = 0.0
    undecided: str | None = None
    null: Null | None = None
    null_reason: str | None = None
    explained: float | None = None
    explained_reason: str | None = None
    confidence: float = 0.95
    min_within: float | None = None
    indirect: str | None = None
    predicted: Predicted | None = None
    min_gap: float | None = None
    metric_worse: Literal["higher", "lower"] = "higher"
    functions: tuple[Function, ...] = ()
    bounds: tuple[Bound, ...] = ()
    schema_version: Literal[1] = SCHEMA_VERSION

    @property
    def accepts(self) -> str:
        """What the claim says of its gap, in words."""
        if self.min_gap is not None:
            return f"claimed to be at least {self.min_gap:.4g}"
        return f"tolerance {self.tolerance:.4g}"

    @property
    def exact(self) -> bool:
        """Whether all that was compared on average was enumerated, and nothing of it drawn."""
        return self.gap.exact and (self.null is None or self.null.gap.exact)

    @property
    def held(self) -> bool:
        """Whether the prediction held; nothing else passes."""
        return self.outcome == HELD

    @property
    def word(self) -> Word:
        """The outcome, where to be refuted on average and to fall to a search are two."""
        return word_of(self.outcome, self.average)

    @property
    def result(self) -> str:
        """The same in words."""
        return result_of(self.outcome, self.average)

    @property
    def undecided_attempt(self) -> Attempt | None:
        """The search that did not decide a claim that held on average."""
        if self.search is None or self.outcome != UNDECIDED or self.average != HELD:
            return None
        return self.search.undecided

    @property
    def deciding(self) -> Deciding:
        """The figure that decided the claim."""
        search, slices, attempt = self.search, self.slices, self.undecided_attempt
        if search is not None and self.word == FELL:
            attempt = search.worst
        if search is not None and attempt is not None:
            bound = attempt.bound
            own = attempt.interval if self.outcome == REFUTED else attempt.deciding
            found = own or Estimate(attempt.found, -math.inf, math.inf)
            return Deciding(
                replace(found, exact=found.exact and attempt.exhaustive),
                search.tolerance if bound is None else bound,
                f"found by {attempt.adversary}",
            )
        rival = None if self.predicted is None else self.predicted.deciding
        if rival is not None and self.outcome == self.average:
            return Deciding(rival.gap, 0.0, f"by which the rival {rival.name} predicts worse")
        if slices is not None and slices.tolerance is not None:
            for one in slices.slices:
                if one.gap is not None and one.outcome == self.outcome != HELD:
                    return Deciding(one.gap, slices.tolerance, f"where {slices.by} = {one.value}")
        if (
            self.min_within is not None
            and self.outcome == REFUTED
            and abs(self.gap.mean) <= self.tolerance
        ):
            sizes = sorted(map(abs, self.changes))
            size = sizes[math.ceil(self.min_within * (len(sizes) - 1))]
            return Deciding(
                Estimate(size, size, size),
                self.tolerance,
                f"for {self.min_within:.4g} of the swaps",
            )
        return Deciding(self.gap, self.tolerance)

    @property
    def worst(self) -> Attempt | None:
        """The largest gap that an adversary found, those that refute first; None where none
        searched."""
        return None if self.search is None else self.search.worst

    def __str__(self) -> str:
        """The whole story as text, whether it held or not."""
        return str(pytest_scrub.story(self))

    def __repr__(self) -> str:
        """Its first line: all fields would fill pages of a notebook's list, or of an assertion."""
        return f"<Verdict: {pytest_scrub.headline(self)}>"

    def __rich__(self) -> Any:
        """The story in a frame of the outcome's colour, for `rich.print`."""
        return pytest_scrub.framed(self)

    def _repr_html_(self) -> str | None:
        """The claim's part of the HTML report, for notebooks; None where Jinja is not installed."""
        with suppress(ModuleNotFoundError):
            return str(pytest_scrub.fragment(self))
        return None

    def to_dataframe(self, of: str = "claim") -> Any:
        """A table of pandas.

        **Arguments**

        - `of`: `"claim"`, one row with the figures, to be put below those of other verdicts;
          `"nodes"`, `"attempts"` of adversaries, `"looks"` while it was drawn, `"slices"`,
          `"mutants"`, `"controls"`, `"answers"` or `"rivals"`: a row for each, none where there are
          none.

        **Raises** `ScrubError` for another table, and `ModuleNotFoundError` where pandas is not
        installed.
        """
        return pytest_scrub.frame(self, of)

    def to_json(self) -> str:
        """All fields as one line of JSON; NaN never occurs, and an end of an interval that is not
        known is null."""
        return json.dumps(as_plain_dict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """**Raises** `ValueError` for what is no verdict, or one of another schema version."""
        return read_record(cls, parse_json(text))
