# SPDX-License-Identifier: MIT
"""Equations of docstrings as MathML: ``Q_i(l) = exp(-½ |f_i - f_j|²)`` is typeset on the API pages.

Docstrings keep a notation that is readable in `help`: Greek letters and operators unchanged, ``_`` before a
subscript, ``^`` before a superscript, ``{…}`` around groups. Browsers draw MathML themselves:
no script, no font, no network.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_INLINE = re.compile(r"``(?P<formula>[^`]+)``")
# Recognises an equation: a mathematical letter or sign, a subscript of one letter, or "Q = ".
_SIGNS = "α-ωΑ-ΩΣ∂·←≤≥√‖½²³ᵀ⁺₀-₉₊₋"
_LOOKS = re.compile(rf"[{_SIGNS}]|\b[A-Za-z]\w*_[a-z]\b|^[A-Za-z] = |^\(\w - |\)\^\w")
_CODE = re.compile(
    r"__|[\"\\#]|'.*'|==|\b(?:if|for|lambda|None|True|np|torch|self)\b|[a-z]{3,}_[a-z]{3,}|\w=\w|\w\.\w*[a-z]"
)
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)"
    r"|(?P<word>[A-Za-zΑ-Ωα-ωáŴ∂]+)|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<under>_)|(?P<over>\^)|(?P<raised>[²³ᵀ⁺⁻]+)|(?P<lowered>[₀-₉₊₋]+)|(?P<half>½)|(?P<root>√)"
    r"|(?P<angle><(?=[A-Z][^<>]*,[^<>]*>)|(?<=[\w)ᵀ])>)|(?P<operator>[-+=/·←≤≥<>|‖,;:±×'])"
)
_PLAIN = str.maketrans("²³ᵀ⁺⁻₀₁₂₃₄₅₆₇₈₉₊₋", "23T+−0123456789+−")
_LARGE = ("Σ", "max", "min", "argmax", "mean")  # their range is set below them


class NotAnEquation(ValueError):
    """The text is code, or contains an unknown sign."""


def typeset(text: str) -> str:
    """The text with each equation in double backticks as MathML; other code is unchanged.

    >>> typeset("See ``theta_alpha``: ``θ_α``.")
    'See ``theta_alpha``: <span class="formula"><math><msub><mi>θ</mi><mi>α</mi></msub></math></span>.'
    """

    def each(found: re.Match[str]) -> str:
        formula = " ".join(found["formula"].split())
        if not _LOOKS.search(formula) or _CODE.search(formula):
            return found[0]
        try:
            # `math` at the start of a line would be a block of its own to Markdown
            return f'<span class="formula">{mathml(formula)}</span>'
        except NotAnEquation:
            return found[0]

    return _INLINE.sub(each, text)


def mathml(formula: str) -> str:
    """One equation.

    Raises: NotAnEquation for an unknown sign, or unbalanced brackets.

    >>> mathml("√(2 θ_α)")
    '<math><msqrt><mn>2</mn><mspace width="0.2em"/><msub><mi>θ</mi><mi>α</mi></msub></msqrt></math>'
    """
    tokens = list(_tokens(formula))
    parts, end = _row(tokens, 0, "")
    if end != len(tokens):
        raise NotAnEquation(f"a bracket that was not opened in {formula!r}")
    return f"<math>{''.join(parts)}</math>"


def _tokens(formula: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(formula):
        found = _TOKEN.match(formula, place)
        if found is None or found.lastgroup is None:
            raise NotAnEquation(f"{formula[place]!r} in {formula!r}")
        yield found.lastgroup, found[0]
        place = found.end()


def _row(tokens: list[tuple[str, str]], place: int, closing: str) -> tuple[list[str], int]:
    """Elements up to the bracket `closing`, or to the end, and the place after it."""
    parts: list[str] = []
    while place < len(tokens):
        kind, text = tokens[place]
        if kind == "close":
            if text != closing:
                raise NotAnEquation(f"{text!r} where {closing!r} was expected")
            return parts, place + 1
        if kind == "space":
            before = tokens[place - 1][0] if place else "operator"
            behind = tokens[place + 1][0] if place + 1 < len(tokens) else "operator"
            if not {"operator", "open"} & {before, behind} and behind != "close":
                parts.append('<mspace width="0.2em"/>')  # a product
            elif (before, behind) in (("close", "open"), ("word", "open")):
                parts.append('<mspace width="0.2em"/>')
            place += 1
            continue
        base, place = _atom(tokens, place)
        part, place = _scripts(tokens, place, base)
        parts.append(part)
    if closing:
        raise NotAnEquation(f"no {closing!r}")
    return parts, place


def _atom(tokens: list[tuple[str, str]], place: int) -> tuple[str, int]:
    kind, text = tokens[place]
    place += 1
    if kind == "number":
        return f"<mn>{text}</mn>", place
    if kind == "word":
        return (f"<mi>{text}</mi>" if len(text) == 1 else f'<mi mathvariant="normal">{text}</mi>'), place
    if kind == "open":
        inside, place = _row(tokens, place, {"(": ")", "[": "]", "{": "}"}[text])
        row = "".join(inside)
        if text == "{":
            return f"<mrow>{row}</mrow>", place
        last = ")" if text == "(" else "]"
        return f"<mrow><mo>{text}</mo>{row}<mo>{last}</mo></mrow>", place
    if kind == "half":
        return "<mfrac><mn>1</mn><mn>2</mn></mfrac>", place
    if kind == "root":
        if place < len(tokens) and tokens[place] == ("open", "("):
            inside, place = _row(tokens, place + 1, ")")
            return f"<msqrt>{''.join(inside)}</msqrt>", place
        base, place = _atom(tokens, place)
        return f"<msqrt>{base}</msqrt>", place
    if kind == "angle":
        return f"<mo>{'⟨' if text == '<' else '⟩'}</mo>", place
    if kind == "operator":
        sign = {"-": "−", "'": "′"}.get(text, text)
        stretch = ' stretchy="false"' if text in "|‖" else ""
        return f"<mo{stretch}>{html.escape(sign)}</mo>", place
    raise NotAnEquation(f"{text!r} without what it belongs to")


def _scripts(tokens: list[tuple[str, str]], place: int, base: str) -> tuple[str, int]:
    """The base with the sub- and superscripts that follow."""
    name = re.sub("<[^>]+>", "", base)
    low: list[str] = []
    high: list[str] = []
    while place < len(tokens):
        kind, text = tokens[place]
        if kind in ("raised", "lowered"):
            plain = text.translate(_PLAIN)
            tag = "mn" if plain.isdigit() else "mo" if plain in "+−" else "mi"
            (high if kind == "raised" else low).append(f"<{tag}>{plain}</{tag}>")
            place += 1
        elif kind in ("under", "over") and place + 1 < len(tokens):
            script, place = _atom(tokens, place + 1)
            (low if kind == "under" else high).append(script)
        else:
            break
    below, above = ("".join(s) if len(s) == 1 else f"<mrow>{''.join(s)}</mrow>" for s in (low, high))
    if name in _LARGE and low and not high:
        return f"<munder>{base}{below}</munder>", place
    if low and high:
        return f"<msubsup>{base}{below}{above}</msubsup>", place
    if low:
        return f"<msub>{base}{below}</msub>", place
    return (f"<msup>{base}{above}</msup>" if high else base), place
