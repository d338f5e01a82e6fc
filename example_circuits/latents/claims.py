"""What is claimed of the latents, as trees, and which latents these are; `look` finds out what they
are active for."""

from __future__ import annotations

from pytest_scrub import ANYTHING, EACH, EXACT, error, head, latents, output

EXPLAINED = 0.9  # of what a claim costs if its features know nothing, on average and at the worst

# Of the transcoder: how many more ) than ( there are, or more ( than ), and that it is balanced.
COUNTERS = [2, 27, 28, 41, 60]
ANSWERS = [0, 51, 52]
# Of the SAE: the same count, at every position; and what has to do with the horizon.
COUNTED = [35, 58, 70]
LOOKED = [15, 18, 23, 57, 90, 119]
LOOKED_AT_THE_ANSWER = [15, 23, 90]  # of those, what is most active at position 0
# as tables and pictures call them
NAMES = {
    "tc2": {0: "balanced", 28: "more )", 41: "more ("},
    "res2": {35: "more )", 58: "more (", 90: "no suffix opens"},
}


def counters(agrees_on, **reading):
    return latents("tc2", COUNTERS, agrees_on=agrees_on, pos=0, **reading)


def only_counters(agrees_on):
    """The counting latents of the transcoder; all else stays."""
    return output(counters(agrees_on), rest=EXACT)


def two_levels(of_the_stream):
    """The transcoder's latents hold the answer and the difference, and those that count get it from
    some of the SAE's, from head 2.0, and a horizon from head 2.1; what else the MLP reads may come
    from any string of the same horizon."""
    reads = [
        latents("res2", of_the_stream, agrees_on="difference", pos=0),
        head(2, 0, agrees_on="difference", pos=0),
        head(2, 1, agrees_on="horizon", pos=0),
    ]
    return output(
        latents("tc2", ANSWERS, agrees_on="balanced", pos=0),
        counters("difference", reads=reads, rest="horizon"),
        rest=EXACT,
    )


def everywhere(units, agrees_on):
    """Latents of the stream at every position, each from a string of its own, along every path to
    the answer; all else stays."""
    return output(latents("res2", units, agrees_on=agrees_on, pos=EACH, via="any"), rest=EXACT)


def without_its_error(dictionary, **where):
    """What a dictionary leaves of its place may come from any string at all."""
    return output(error(dictionary, agrees_on=ANYTHING, **where), rest=EXACT)
