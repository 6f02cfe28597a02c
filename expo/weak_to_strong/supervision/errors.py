"""What can be wrong with supervision: too few samples for a rate, strange subtasks, a teacher or judge that fails."""

from expo.errors import ExpoError


class BadRate(ExpoError):
    """A rate outside [0, 1], or one that the samples cannot give."""


class NotEnoughSamples(ExpoError):
    """A rate needs more correct or incorrect samples than there are."""


class Stranger(ExpoError):
    """A subtask, sample or paraphrase belongs to no task that is given."""


class TeacherFailed(ExpoError):
    """A teacher answered nothing, or not in the form asked for, more often than is allowed."""


class JudgeUnsteady(ExpoError):
    """A judge contradicts itself more often than is allowed, or leaves too much without a verdict."""


class BadNumber(ExpoError):
    """A setting of a teacher, a judge or the length rule that cannot be."""

    def __init__(self, name: str, value: object, wanted: str):
        super().__init__(f"{name}: {value!r} cannot be; it must be {wanted}.")
