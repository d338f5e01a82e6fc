"""The circuit for indirect objects in GPT-2 small, as trees of claims.

The 26 heads and their roles are those of Wang et al., "Interpretability in the Wild: a Circuit for
Indirect Object Identification in GPT-2 small" (2022). What each role agrees on is our reading of
that paper, put so that it can be refuted. The network may be any of 12 layers of 12 heads, and the
data what `data.dataset` makes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_scrub import EXACT, embed, head, mlp, output
from pytest_scrub.tree.nodes import Node

Heads = tuple[tuple[int, int], ...]  # layer, head

NAME_MOVERS: Heads = ((9, 9), (9, 6), (10, 0))
NEGATIVE_NAME_MOVERS: Heads = ((10, 7), (11, 10))
BACKUP_NAME_MOVERS: Heads = ((9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9))
S_INHIBITION: Heads = ((7, 3), (7, 9), (8, 6), (8, 10))
INDUCTION: Heads = ((5, 5), (5, 8), (5, 9), (6, 9))
DUPLICATE_TOKEN: Heads = ((0, 1), (0, 10), (3, 0))
PREVIOUS_TOKEN: Heads = ((2, 2), (4, 11))

# what the output reads at the end
WRITERS = NAME_MOVERS + NEGATIVE_NAME_MOVERS + BACKUP_NAME_MOVERS
CIRCUIT = WRITERS + S_INHIBITION + INDUCTION + DUPLICATE_TOKEN + PREVIOUS_TOKEN
# As many heads of the same layers that the paper does not name.
OTHERS: Heads = (
    (9, 1), (9, 2), (9, 3), (9, 4), (10, 3), (10, 4), (10, 5), (10, 8), (10, 9), (10, 11), (11, 0),
    (11, 1), (11, 3),
)  # fmt: skip

# which token S is, and where it stands: what keeps name movers from copying S
BOTH_SIGNALS = ("s", "order")
PROMPT = ("io", *BOTH_SIGNALS)


def writers(heads: Heads = WRITERS, agrees_on: str = "io") -> Node:
    """The output reads these heads at the end, and each of them says the same: by default, which
    name is the IO."""
    return output(*(head(*which, agrees_on=agrees_on, pos="end") for which in heads))


def ten_writers() -> Node:
    """The same of the ten heads of layers 9 and 10 alone: what layer 11 writes does not matter."""
    return writers(tuple((layer, which) for layer, which in WRITERS if layer < 11))


def name_movers_read(reads: Sequence[Node], rest: Sequence[str] = PROMPT) -> Node:
    """The writers, of which the three name movers are spelled out: what they read, and on what
    their rest agrees."""
    others = NEGATIVE_NAME_MOVERS + BACKUP_NAME_MOVERS
    return output(
        *(head(*which, agrees_on="io", pos="end", reads=reads, rest=rest) for which in NAME_MOVERS),
        *(head(*which, agrees_on="io", pos="end") for which in others),
    )


def s_inhibition(signals: Sequence[str] = BOTH_SIGNALS, **below: object) -> list[Node]:
    """The S-inhibition heads at the end, whom name movers ask where not to look."""
    return [head(*which, agrees_on=signals, pos="end", into="q", **below) for which in S_INHIBITION]


def two_levels(signals: Sequence[str] = BOTH_SIGNALS) -> Node:
    """Name movers look where their keys and values, and the signals of the S-inhibition heads, send
    them."""
    return name_movers_read(s_inhibition(signals))


def copied_tokens() -> Node:
    """And what they copy there is the token of the IO, as the embedding and MLP 0 put it."""
    token = {"agrees_on": "io", "pos": "io_at", "into": "v"}
    return name_movers_read([*s_inhibition(), embed(**token), mlp(0, **token)], rest=BOTH_SIGNALS)


def circuit() -> Node:
    """All 26 heads.

    S-inhibition heads look at S2, whose token they read there. Where S1 stands they know from the
    duplicate token heads, which match S2 with S1, and from the induction heads, which match S2 with
    the token after S1: previous token heads have put S1 there.
    """
    before = [head(*which, agrees_on="s", pos="after_s1", into="k") for which in PREVIOUS_TOKEN]
    at_s2 = {"agrees_on": "order", "pos": "s2_at", "into": "v"}
    repeats = [
        *(head(*which, **at_s2) for which in DUPLICATE_TOKEN),
        *(head(*which, **at_s2, reads=before, rest=BOTH_SIGNALS) for which in INDUCTION),
    ]
    return name_movers_read(s_inhibition(reads=repeats, rest="s"))


def duplicate_token_heads() -> Node:
    """Whatever they serve, along every path: these heads find S1 by its token, and say which and
    where it is."""
    match = [
        embed(agrees_on="s", pos="s2_at", into="q"),
        embed(agrees_on="s", pos="s1_at", into="k"),
    ]
    heads = (
        head(*which, agrees_on=BOTH_SIGNALS, pos="s2_at", via="any", reads=match, rest=BOTH_SIGNALS)
        for which in DUPLICATE_TOKEN
    )
    return output(*heads, rest=EXACT)
