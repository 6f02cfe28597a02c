"""Whether a generated answer is degenerate: nothing, or a loop that only the token limit ended.

A too large alpha shows first in its answers: they grow, then repeat themselves until they are cut off.
"""

N = 4  # words, or characters, of an n-gram
SHARE = 0.5  # of the n-grams that must have occurred before in the same answer
LEAST_NGRAMS = 8  # fewer repeat by chance
_CUT = ("length", "context")


def is_degenerate(text: str, finish: str) -> bool:
    """True for an answer that is empty, or that was cut off by a limit while it repeated itself.

    Empty: no character beside white space. Repeated: of its 4-grams of words (of characters, where the answer has
    fewer than 12 words or none of them is separated, as in Chinese or in digits) at least half stood in it before,
    among at least 8. Prose of 500 words repeats some hundredth of its 4-grams, a loop nearly all. An answer that ended
    by itself is never called repeated, so a table or a refrain is not.
    """
    if not text.strip():
        return True
    return finish in _CUT and repeated_share(text) >= SHARE


def repeated_share(text: str) -> float:
    """The share of n-grams that occurred before in the text; 0 where there are too few to tell."""
    words = text.split()
    pieces = words if len(words) >= N + LEAST_NGRAMS else list("".join(words))
    n_grams = [tuple(pieces[i : i + N]) for i in range(len(pieces) - N + 1)]
    if len(n_grams) < LEAST_NGRAMS:
        return 0.0
    return 1 - len(set(n_grams)) / len(n_grams)
