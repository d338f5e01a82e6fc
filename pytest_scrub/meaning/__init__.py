"""What a claim means, to be read: which swaps are allowed, and what a node's value is then.

One node, one slot and one reference at a time, and nothing fast. The rules are those of
docs/meaning.md, "Exactly", and are named where they are followed. Three files, in this order:

- `donors`: which rows may be donors, and how likely a swap is;
- `network`: the six questions that a network answers in its own way;
- `values`: what the network computes when activations are taken from these donors.

Nothing else in the package imports this one, and it shares no code with the engine, which the tests
hold against it.
"""

from pytest_scrub.meaning.donors import agreeing, allowed, chance
from pytest_scrub.meaning.network import Change, Network, Run
from pytest_scrub.meaning.values import continuations, label, outputs

__all__ = [
    "Change",
    "Network",
    "Run",
    "agreeing",
    "allowed",
    "chance",
    "continuations",
    "label",
    "outputs",
]
