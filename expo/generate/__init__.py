"""Text from a local model or an OpenAI-compatible server, one row for each (question, sample), resumable.

    report = generate(model, questions, "answers.jsonl", sampling=Sampling(samples=10, temperature=1.0))

model: folder, Hub id, or with endpoint= the server's name of it; an experts.json, whose models answer
as one, mixed token by token (see expo.generate.experts); what `load` or `load_members` returned.
questions: JSONL path or dictionaries {id, prompt | question | messages, ...}; where no row has an id, its position
from 0 is one. Answers are rows {id, sample, prompt | messages, response, n_tokens, finish}: `prompt` is the
question's own, without demos and chat template; `response` is as the model wrote it (no strip), without the stop text;
`finish` is stop | length | context | too long; a server that tells how many tokens it read for one answer adds
`n_prompt_tokens`. They are appended as they are finished, and once all are there they
stand in the order of the questions, then samples. The same call continues an unfinished file.
"""

from expo.generate.answers import read_answers
from expo.generate.prompts import Question, read_questions
from expo.generate.run import Report, generate
from expo.generate.sampling import Sampling

__all__ = ["Question", "Report", "Sampling", "generate", "load", "load_members", "read_answers", "read_questions"]


def load(model, *, device="auto", dtype=None, trust_remote_code=False):
    """A model and its tokenizer, once for several calls of `generate`; see expo.generate.local."""
    from expo.generate.members import load_answerer  # loads torch

    return load_answerer(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def load_members(experts, *, device="auto", dtype=None, trust_remote_code=False):
    """The members that an experts.json lists, once for several calls of `generate`; see expo.generate.members."""
    from expo.generate.members import load_members  # loads torch

    return load_members(experts, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
