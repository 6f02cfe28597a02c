"""Whether two answers to one question are the same, by any of `expo eval`'s equivalences; each pair is judged once."""

from collections.abc import Iterable
from itertools import islice

from expo.weak_to_strong.answers import Answer, Same
from expo.weak_to_strong.provenance import text_hash

IN_PROCESS = ("string", "numeric")  # these are asked one by one; a judge outside this process gets many at once
_AT_ONCE = 20_000


class Comparison:
    """A Same that remembers verdicts. equivalence: string | numeric | math-verify | a command line."""

    def __init__(self, equivalence: str = "string", seconds: float | None = None):
        from expo.evaluate import judge

        self.equivalence = equivalence
        self.judge = judge(equivalence, **({"seconds": seconds} if seconds else {}))
        self.known: dict[bytes, bool] = {}

    def __call__(self, one: Answer, other: Answer) -> bool:
        if one.pred == other.pred:
            return True
        if _key(one, other) not in self.known:
            self._ask([(one, other)])
        return self.known[_key(one, other)]

    def prepare(self, pairs: Iterable[tuple[Answer, Answer]]) -> None:
        """Judge many pairs in few runs of a judge that takes long to start."""
        if self.equivalence in IN_PROCESS:
            return
        different = (pair for pair in pairs if pair[0].pred and pair[1].pred and pair[0].pred != pair[1].pred)
        while some := list(islice(different, _AT_ONCE)):
            self._ask([pair for pair in some if _key(*pair) not in self.known])

    def _ask(self, pairs: list[tuple[Answer, Answer]]) -> None:
        from expo.evaluate import Pair

        asked = [Pair(one.pred, two.pred, one.id, one.sample, one.prompt, one.response) for one, two in pairs]
        for (one, other), verdict in zip(pairs, self.judge(asked), strict=True):
            self.known[_key(one, other)] = verdict.correct


def prepare(same: Same, pairs: Iterable[tuple[Answer, Answer]]) -> None:
    """Announce pairs that `same` will be asked about; nothing for a plain function."""
    if isinstance(same, Comparison):
        same.prepare(pairs)


def _key(one: Answer, other: Answer) -> bytes:
    return text_hash(one.prompt, one.pred, other.pred, one.response)
