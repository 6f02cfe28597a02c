"""A stand-in for the Hub that the unmodified huggingface_hub client talks to; every request is kept.

Two hosts, as there: the Hub (127.0.0.1) answers about repositories and redirects large files to signed URLs on
storage (localhost, another port). `Hub` starts both; a file adds routes with `hub.route(method, pattern, function)`.
"""

from standin_hub.faults import Faults
from standin_hub.hub import Hub, User
from standin_hub.repositories import Blob, Commit, Repository
from standin_hub.server import Refusal, Request

__all__ = ["Blob", "Commit", "Faults", "Hub", "Refusal", "Repository", "Request", "User"]
