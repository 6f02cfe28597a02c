r"""The published extraction of final answers, to the letter, with its defects.

Source: the code of Weak-to-Strong Reasoning (arXiv:2407.13647), whose normalisation is that of Minerva
(arXiv:2206.14858, appendix D.1, with its two lists). Known defects, kept on purpose: only the last line can hold an
answer; `</s>` costs the last four characters wherever it stands; units are deleted inside words and commands, so that
`\left` becomes `\le`. `extract.py` has the mended extraction.
"""

import re

GSM8K_KEY = "####"
MATH_KEY = "The answer is:"

# Facts of the paper's appendix, in its order: each is replaced or deleted wherever it stands.
_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_DELETED = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_WRAPPERS = ("text", "textbf", "overline")


def extract_published(text: str, key: str = GSM8K_KEY) -> str:
    """The normalised final answer of a response; empty where there is none.

    key: what stands before the answer, `####` (GSM8K) or `The answer is:` (MATH).
    """
    text = text.split("Question")[0].strip()
    found = re.findall(re.escape(key) + r" (.*)$", text)  # `$` without MULTILINE: the last line only
    pred = found[-1] if found else _fallback(text)
    if "</s>" in pred:
        pred = pred[:-4]
    return normalise_published(pred)


def _fallback(text: str) -> str:
    """The first number after the last line's `The answer is`."""
    found = re.findall(r"The answer is (.*)$", text)
    if not found:
        return ""
    numbers = re.findall(r"-?\d+\.?\d*", found[-1].replace(",", ""))
    return numbers[0].rstrip(".") if numbers else ""


def normalise_published(answer: str) -> str:
    """An answer, predicted or gold, in the form in which two are compared as strings."""
    answer = answer.split("=")[-1]
    for before, after in _REPLACED:
        answer = answer.replace(before, after)
    for text in _DELETED:
        answer = answer.replace(text, "")
    if answer.count("$") > 1:  # the pattern needs two, and takes quadratic time to find that out
        answer = re.sub(r".*?\$(.*?)\$.*", r"$\1$", answer)
    for name in _WRAPPERS:
        answer = re.sub(rf"\\{name}\{{(.*?)\}}", r"\1", answer)
    answer = re.sub(r"\\boxed\{(.*)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer)
    return _plain_number(answer.replace("$", ""))


def _plain_number(answer: str) -> str:
    """1,000 -> 1000, 3.00 -> 3, 50% -> 50, A..G -> a..g."""
    if answer.replace(",", "").isdigit():
        answer = answer.replace(",", "")
    whole = re.fullmatch(r"(-?\d+)\.0+", answer)
    if whole:
        answer = whole[1]
    percent = re.fullmatch(r"(-?\d+(?:\.\d+)?)\\?%", answer)
    if percent:
        answer = percent[1]
    return answer.lower() if re.fullmatch(r"[A-G]", answer) else answer
