"""Point this process's huggingface_hub at a stand-in Hub: its settings are read when it is imported."""

import os
from pathlib import Path

from standin_hub.hub import TOKEN, Hub


def use(hub: Hub, monkeypatch, home: Path, token: str | None = TOKEN) -> None:
    """Until the test ends, huggingface_hub and expo talk to this Hub, with this token."""
    from huggingface_hub import close_session, constants

    for name, value in hub.environment(home, token).items():
        monkeypatch.setenv(name, value)
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(home) / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(Path(home) / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(Path(home) / "stored_tokens"))
    close_session()


def fast_retries(monkeypatch) -> None:
    """Retries without their waits."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: os.sched_yield())
