"""Whether answers are right: extraction, comparison, accuracy with intervals, paired differences between models.

    pred = extractor("published:####")(text)          # also default, published:The answer is:, whole, regex:PATTERN
    gold = normalise_published(answer)                # the other side of the published comparison
    same = judge("string")([Pair("5", "5")])          # -> [Verdict]; string | numeric | math-verify | a command line
    graded = grade(answers, references, extract=..., equivalence="string")     # rows of two JSONL files, matched by id
    evaluate(data, models=[...], answers=[...])                                # all of it, as one record
    accuracy(graded); difference(before, after); pass_at_k(n, c, k); wilson(successes, n); paired(before, after)
    teacher_forced(model, rows)                                # of .teacher_forced: each token of given answers judged

The published extraction repeats Weak-to-Strong Reasoning's (arXiv 2407.13647) code to the letter, defects included;
the default mends them.
"""

from expo.evaluate.equivalence import Pair, Verdict, judge
from expo.evaluate.extract import extractor
from expo.evaluate.grade import Graded, grade, read_references
from expo.evaluate.published import extract_published, normalise_published
from expo.evaluate.run import evaluate
from expo.evaluate.statistics import Interval, paired, pass_at_k, wilson
from expo.evaluate.summary import accuracy, difference, summary

__all__ = [
    "Graded",
    "Interval",
    "Pair",
    "Verdict",
    "accuracy",
    "difference",
    "evaluate",
    "extract_published",
    "extractor",
    "grade",
    "judge",
    "normalise_published",
    "paired",
    "pass_at_k",
    "read_references",
    "summary",
    "wilson",
]
