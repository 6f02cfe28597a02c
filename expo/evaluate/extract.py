r"""From a response to its final answer. The default mends what the published extraction gets wrong, and says so here.

Against `published.py`: an answer may stand on any line, not only the last; `\boxed{}` is read with its braces
balanced; `</s>` and other end marks are cut where they stand; units go only where they follow a number, never inside
words or commands; `0.50` is written 0.5. Nothing is guessed: a text without any sign of an answer has none.
"""

import re
from collections.abc import Callable

from expo.errors import ExpoError, nearest
from expo.evaluate.published import GSM8K_KEY, MATH_KEY, extract_published, normalise_published

Extract = Callable[[str], str]

_ENDS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>")
_NEXT_QUESTION = re.compile(r"^\s*(?:Question|Problem)\s*:", re.MULTILINE)
# What announces an answer, the surest first; the answer is the rest of that line, or what the braces hold.
_BOXED = re.compile(r"\\boxed\s*(?=\{)")
_MARKS = (
    re.compile(r"####[ \t]*(.+)"),
    _BOXED,
    re.compile(r"\banswer\s*(?:is|:)\s*:?[ \t]*(.+)", re.IGNORECASE),
)
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_SHORT_UNITS = "cm|mm|km|kg|mg|ml|mph|ft|lbs?|hrs?|min|mins|am|pm"
_NUMBER_AND_UNIT = re.compile(
    rf"({_NUMBER}(?:/\d+)?)(?:\s*\\?%|\s*°|(?:{_SHORT_UNITS})\b\.?)?(?:\s+[a-zA-Z]{{2,}}\.?)*", re.IGNORECASE
)


class UnknownExtraction(ExpoError):
    """No extraction of that name."""


def extractor(name: str = "default") -> Extract:
    """The function from a response to its answer, '' where there is none.

    default; published:KEY, such as `published:####` (also published alone, for GSM8K) or `published:The answer is:`;
    whole (the response without surrounding space); regex:PATTERN (its last match's first group, or the whole match).
    Raises UnknownExtraction.
    """
    kind, _, rest = name.partition(":")
    if name == "default":
        return extract
    if kind == "published":
        key = rest or GSM8K_KEY
        if key not in (GSM8K_KEY, MATH_KEY):
            raise UnknownExtraction(f"published extraction looks for {GSM8K_KEY!r} or {MATH_KEY!r}, not for {key!r}.")
        return lambda text: extract_published(text, key)
    if name == "whole":
        return str.strip
    if kind == "regex" and rest:
        return _by_pattern(rest)
    known = ("default", "published", "whole", "regex:PATTERN")
    raise UnknownExtraction(f"no extraction is called {name!r}.{nearest(name, known)} They are: {', '.join(known)}.")


def normaliser(name: str = "default") -> Extract:
    """What the gold answer goes through for the comparison with what `extractor(name)` finds in a response."""
    if name.startswith("published"):
        return normalise_published
    return normalise if name == "default" else str.strip


def extract(text: str) -> str:
    """The final answer by the mended rules: the last one behind the surest mark that occurs."""
    for end in _ENDS:
        text = text.split(end, 1)[0]
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0] if text.strip() else text
    for mark in _MARKS:
        found = list(mark.finditer(text))
        if found:
            last = found[-1]
            answer = normalise(_braced(text, last.end()) if mark is _BOXED else last[1])
            if answer:
                return answer
    return ""


def normalise(answer: str) -> str:
    """An answer without dressing: no dollar signs, units, thousands' commas, idle zeros or final full stop."""
    answer = answer.strip()
    boxed = re.fullmatch(r".*\\boxed\s*(\{.*)", answer, re.DOTALL)
    answer = _braced(boxed[1], 0) if boxed else answer
    answer = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1", answer)
    answer = re.sub(r"\\[!,;: ]|\\left|\\right(?![a-z])", "", answer).replace("{,}", ",")
    answer = answer.replace("\\$", "").replace("$", "").replace("^\\circ", "").replace("^{\\circ}", "")
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer).strip().rstrip(".").strip(" *\"'`")
    if answer.count("=") == 1:
        answer = answer.split("=")[1].strip()
    number = _NUMBER_AND_UNIT.fullmatch(answer)
    return _plain(number[1]) if number else re.sub(r"\s+", " ", answer)


def _plain(number: str) -> str:
    """A number in one spelling: 1,000 -> 1000, 3.00 -> 3, 0.50 -> 0.5, +4 -> 4, .5 -> 0.5."""
    number = number.replace(",", "").removeprefix("+")
    if "/" in number:
        return number
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    plain = f"{whole}.{fraction}" if fraction else whole
    return plain if plain == "0" else sign + plain


def _braced(text: str, at: int) -> str:
    """What stands between the brace at `at` and its partner; to the end of the line where it has none."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[at + 1 : i]
    return text[at + 1 :].split("\n")[0]


def _by_pattern(pattern: str) -> Extract:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UnknownExtraction(f"regex:{pattern} is no regular expression: {error}.") from None

    def find(text: str) -> str:
        found = list(compiled.finditer(text))
        return (found[-1][1 if compiled.groups else 0] or "").strip() if found else ""

    return find
