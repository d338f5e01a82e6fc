"""Datasets from prompts: a template, the words that its slots may hold, and where each of them is.

`Dataset.from_prompts` says what may be given.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from string import Formatter
from typing import Any

from pytest_scrub.common.calls import is_whole, short_repr
from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.data.files import padded
from pytest_scrub.data.names import TOKENS
from pytest_scrub.errors import DataError, did_you_mean, hides_scrub_errors

__tracebackhide__ = hides_scrub_errors

TEMPLATE, END, AGAINST = "template", "end", "against"
TRIES = 1000  # prompts for each row that is asked for, until too few are as `where=` wants them
SOURCE = "from_prompts()"

Words = dict[str, str]
Piece = tuple[str, str]  # text, and the slot that follows it or nothing


def from_prompts(
    template: Any,
    slots: Any,
    *,
    tokenizer: Any,
    label: Any = None,
    against: Any = None,
    rows: int | None = None,
    seed: int = 0,
    where: Callable[[Words], Any] | None = None,
    pad: int | None = None,
    features: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """See `Dataset.from_prompts`."""
    words = _words(slots)
    templates = [template] if isinstance(template, str) else list(template)
    pieces = [_pieces(text, words) for text in templates]
    unused = {*words} - {slot for some in pieces for _, slot in some}
    if unused:
        raise DataError(
            f"slots= has {min(unused)!r}, which no template holds as {{{min(unused)}}}; take it out"
        )
    prompts = [
        _Prompt(nth, pieces[nth], chosen)
        for nth, chosen in _chosen(len(templates), words, rows, seed, where)
    ]
    encode = _Encode(tokenizer)
    ids = [list(encode(prompt.text)) for prompt in prompts]
    columns: dict[str, list[Any]] = {slot: [p.words[slot] for p in prompts] for slot in words}
    columns |= _positions(prompts, encode)
    if len(templates) > 1:
        columns[TEMPLATE] = [prompt.template for prompt in prompts]
    if against is not None:
        columns[AGAINST] = _next_tokens("against=", against, prompts, encode)
    for name, source in (features or {}).items():
        if name in columns:
            raise DataError(f"features= has {name!r}, which {SOURCE} gives; take another name")
        columns[name] = _column(f"features={{{name!r}: ...}}", source, prompts)
    tokens = padded({TOKENS: ids}, encode.pad if pad is None else pad, SOURCE)
    texts = {tuple(row): p.text for row, p in zip(tokens[TOKENS], prompts, strict=True)}
    shown = {"show": lambda row: _shown(row[TOKENS].tolist(), texts), "label_pos": END}
    labels = None if label is None else _next_tokens("label=", label, prompts, encode)
    return {"inputs": tokens, "labels": labels, "features": columns, **shown, **fields}


class _Prompt:
    """One prompt, in words.

    - `template`: which it is made of.
    - `spans`: slot to where in the text its words begin and end, the space before it included.
    """

    def __init__(self, template: int, pieces: Sequence[Piece], words: Words) -> None:
        self.template, self.words, self.text = template, words, ""
        self.spans: dict[str, list[tuple[int, int]]] = {}
        for before, slot in pieces:
            self.text += before
            if slot:
                begin = len(self.text.rstrip(" "))
                self.text += words[slot]
                self.spans.setdefault(slot, []).append((begin, len(self.text)))


class _Encode:
    """Text to token ids, and how many of them belong to the text before a place in it.

    - `pad`: an id to fill rows up with; nothing that is read looks at it.
    """

    def __init__(self, tokenizer: Any) -> None:
        own = getattr(tokenizer, "encode", None)
        if own is None and not callable(tokenizer):
            raise DataError(
                "tokenizer= takes a tokenizer or a function from a text to its token ids, not a "
                f"{type(tokenizer).__name__}"
            )
        self._function = tokenizer if own is None else own
        # what a tokenizer puts before and behind every text is nothing that a prefix has
        self._alone = {} if own is None else {"add_special_tokens": False}
        ids = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        self.pad = next((id for id in ids if isinstance(id, int)), 0)
        self._known: dict[tuple[str, bool], tuple[int, ...]] = {}

    def __call__(self, text: str, *, alone: bool = False) -> tuple[int, ...]:
        """With what the tokenizer puts before and behind every text, or alone."""
        if (text, alone) not in self._known:
            ids = call_user_function(
                "tokenizer=",
                lambda: [int(id) for id in self._function(text, **(self._alone if alone else {}))],
            )
            self._known[text, alone] = tuple(ids)
        return self._known[text, alone]

    def count(self, text: str, upto: int) -> int:
        """How many tokens of a text, as it is called with, end at a place in it.

        **Raises** `DataError` where a token begins before it and ends behind it.
        """
        whole, inner, head = self(text), self(text, alone=True), self(text[:upto], alone=True)
        starts = range(len(whole) - len(inner) + 1)
        shift = next((n for n in starts if whole[n : n + len(inner)] == inner), None)
        if shift is None or inner[: len(head)] != head:
            raise DataError(
                f"the tokens of {text!r} do not begin with those of {text[:upto]!r}, so the words "
                "have no positions of their own; put a space or a punctuation mark between them"
            )
        return shift + len(head)


def _words(slots: Any) -> dict[str, list[str]]:
    if not isinstance(slots, Mapping) or not slots:
        raise DataError("slots= maps the names in the template to lists of words")
    words = {}
    for slot, some in slots.items():
        if isinstance(some, str) or not isinstance(some, Iterable):
            raise DataError(f"slots= has {short_repr(some)} for {slot!r}; give a list of words")
        words[slot] = list(some)
        wrong = [word for word in words[slot] if not isinstance(word, str) or not word.strip()]
        if wrong or not words[slot]:
            raise DataError(
                f"slots= has {short_repr(wrong[0]) if wrong else 'no word'} for {slot!r}; give "
                "words that hold at least a letter"
            )
        twice = [word for word, times in Counter(words[slot]).items() if times > 1]
        if twice:
            raise DataError(f"slots= has {twice[0]!r} for {slot!r} twice; name each word once")
        if slot in (TEMPLATE, END, AGAINST):
            raise DataError(f"a slot cannot be called {slot!r}, as {SOURCE} gives that feature")
    return words


def _pieces(template: Any, words: Collection[str]) -> list[Piece]:
    """A template taken apart."""
    if not isinstance(template, str):
        raise DataError(f"a template is text with {{slots}}, not {short_repr(template)}")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"the template {template!r} cannot be read ({error})") from None
    for _, slot, form, conversion in parts:
        if slot is not None and (slot not in words or form or conversion):
            raise DataError(
                f"the template {template!r} has the slot {slot!r}, which slots= does not"
                f"{did_you_mean(slot, list(words))}; it has {', '.join(words)}"
            )
    if template != template.rstrip():
        raise DataError(
            f"the template {template!r} ends with a space, which would be a token of its own; the "
            "space belongs to the word that follows"
        )
    return [(before, slot or "") for before, slot, _, _ in parts]


def _chosen(
    templates: int,
    words: Mapping[str, Sequence[str]],
    rows: int | None,
    seed: int,
    where: Callable[[Words], Any] | None,
) -> Iterator[tuple[int, Words]]:
    """Templates and words of different prompts: all in order, or so many in random order."""
    if rows is not None and not is_whole(rows, 1, math.inf):
        raise DataError(f"rows= is a whole number of at least 1, not {short_repr(rows)}")
    sizes = [templates, *map(len, words.values())]
    total = math.prod(sizes)
    seen = set[int]()

    def each() -> Iterator[tuple[int, Words]]:
        for number in _numbers(total, rows, seed):
            digits, left = [], number
            for size in sizes:
                left, digit = divmod(left, size)
                digits.append(digit)
            nth, *others = digits
            chosen = {s: words[s][digit] for s, digit in zip(words, others, strict=True)}
            is_new = number not in seen
            seen.add(number)
            if is_new and (
                where is None or call_user_function("the function where=", where, dict(chosen))
            ):
                yield nth, chosen

    found = list(islice(each(), rows))
    if len(found) < (rows or 1):
        kept = " that where= keeps" if where else ""
        raise DataError(
            f"{len(found)} of {len(seen)} different prompts are there{kept}, fewer than "
            f"{rows or 1}; give slots= more words"
        )
    return iter(found)


def _numbers(total: int, rows: int | None, seed: int) -> Iterator[int]:
    """Numbers of prompts: all in order; all in random order, where those are not too many; else as
    many random ones as are tried."""
    rng = random.Random(seed)
    if rows is None:
        yield from range(total)
    elif total <= rows * TRIES:
        yield from rng.sample(range(total), total)
    else:
        yield from (rng.randrange(total) for _ in range(rows * TRIES))


def _positions(prompts: Sequence[_Prompt], encode: _Encode) -> dict[str, list[int]]:
    """Where the words of every slot that each prompt has start and end, and where prompts end."""
    columns: dict[str, list[int]] = {}
    for slot in prompts[0].spans:
        for nth in range(min(len(prompt.spans.get(slot, ())) for prompt in prompts)):
            name = slot if nth == 0 else f"{slot}_{nth + 1}"
            spans = [(prompt.text, *prompt.spans[slot][nth]) for prompt in prompts]
            columns[f"{name}_start"] = [encode.count(text, begin) for text, begin, _ in spans]
            columns[f"{name}_end"] = [encode.count(text, end) - 1 for text, _, end in spans]
    columns[END] = [encode.count(prompt.text, len(prompt.text)) - 1 for prompt in prompts]
    return columns


def _column(what: str, source: Any, prompts: Sequence[_Prompt]) -> list[Any]:
    """What a function of the words says of every prompt."""
    if not callable(source):
        raise DataError(f"{what} takes a function of a prompt's words, not {short_repr(source)}")
    return [call_user_function(f"the function {what}", source, dict(p.words)) for p in prompts]


def _next_tokens(what: str, source: Any, prompts: Sequence[_Prompt], encode: _Encode) -> list[int]:
    """The one token with which each prompt goes on where a text follows: a template of the same
    slots, or what a function of the words says."""
    if isinstance(source, str):
        words = list(prompts[0].words)
        if source in words:
            raise DataError(
                f"{what} is the text that follows a prompt, with slots in braces and the space "
                f"before it; write {what}' {{{source}}}'"
            )
        pieces = _pieces(source, words)
        texts = [_Prompt(0, pieces, prompt.words).text for prompt in prompts]
    else:
        texts = _column(what, source, prompts)
    return [
        _next_token(what, prompt.text, text, encode)
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _next_token(what: str, prompt: str, text: Any, encode: _Encode) -> int:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{what} gives {short_repr(text)} after {prompt!r}; give text that follows")
    if prompt[-1].isalnum() and text[0].isalnum():
        raise DataError(
            f"{what} gives {text!r} after {prompt!r} without a space between them; write "
            f"{' ' + text!r}"
        )
    begin, end = (encode.count(prompt + text, at) for at in (len(prompt), len(prompt + text)))
    if end - begin != 1:
        raise DataError(
            f"{what} gives {text!r} after {prompt!r}, which is {end - begin} tokens for this "
            "tokenizer; take words that are one token each"
        )
    return encode(prompt + text)[begin]


def _shown(row: Sequence[int], texts: Mapping[tuple[int, ...], str]) -> str:
    """A row that was made of a prompt as its text, another as its tokens."""
    return texts.get(tuple(row), " ".join(map(str, row)))
