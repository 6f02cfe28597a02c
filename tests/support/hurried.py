"""python hurried.py ARGUMENTS: the `expo` command, whose tries again do not wait."""

import os
from types import SimpleNamespace

from huggingface_hub.utils import _http

from expo.checkpoint import hub_errors, remote
from expo.cli.main import main
from expo.output import hub_errors as push_errors

# Not the module's own `sleep`: the run itself waits by it.
_http.time = SimpleNamespace(sleep=lambda seconds: os.sched_yield())
remote.WAITS = (0.0,) * len(remote.WAITS)
hub_errors.WAITS = (0.0,) * len(hub_errors.WAITS)
push_errors._WAITS = (0.0,) * len(push_errors._WAITS)
main()
