"""A server's answers: some requests at a time, each question's missing samples in as few requests as it takes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from expo.generate.answers import Answer
from expo.generate.endpoint import Endpoint, PromptRefused
from expo.generate.prompts import Demo, Question
from expo.generate.sampling import Sampling


def served_answers(
    endpoint: Endpoint,
    missing: Sequence[tuple[Question, int]],
    demos: Sequence[Demo],
    sampling: Sampling,
    *,
    long_prompts: str,
    concurrency: int,
) -> Iterator[tuple[Question, int, Answer]]:
    """Every answer as it comes. After an error nothing more is asked, and what is under way is still given out."""
    waiting: dict[int, tuple[Question, list[int]]] = {}
    for question, sample in missing:
        waiting.setdefault(id(question), (question, []))[1].append(sample)
    queue = list(reversed(waiting.values()))
    running: dict[Future, tuple[Question, list[int]]] = {}
    failure: Exception | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while running or (queue and failure is None):
                while queue and failure is None and len(running) < concurrency:
                    question, samples = queue.pop()
                    running[pool.submit(endpoint.ask, question, samples, demos, sampling)] = (question, samples)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    question, samples = running.pop(future)
                    try:
                        found = future.result()
                    except PromptRefused as error:
                        if long_prompts == "skip":
                            found = [(sample, Answer("", 0, "too long")) for sample in samples]
                        else:
                            failure, found = failure or _located(error, question), []
                    except Exception as error:
                        failure, found = failure or error, []
                    for sample, answer in found:
                        yield question, sample, answer
                    if rest := samples[len(found) :]:
                        queue.append((question, rest))  # the server gave fewer choices than it was asked for
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def _located(error: PromptRefused, question: Question) -> PromptRefused:
    return PromptRefused(f"{question.where}: {error}\nTo answer such prompts with nothing: --long-prompts skip.")
