"""Fetching a model from the hub or its cache, without loading any weight."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_unlearn.core.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_CACHED = re.compile(r"models--(.+?)--(.+)")
# What of a repository is fetched: no pickles, no other frameworks' weights, no code.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# The same weights again, in the format of the model's authors or for another runtime.
_IGNORED = ["*/*.safetensors", "*/*.json", "consolidated*"]


class ModelNotFoundError(UserError):
    """No model can be had under a name; the message says what to write or where to put it."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form `Organisation/Model`."""
    return _HUB_ID.fullmatch(name) is not None


def cached_id(folder: Path) -> str | None:
    """Return the hub id whose cache a folder lies in, or None."""
    for part in folder.parts:
        if match := _CACHED.fullmatch(part):
            return f"{match[1]}/{match[2]}"
    return None


def fetch(hub_id: str, revision: str, code: bool, flag: str) -> Path:
    """Return the folder of a hub id in the cache, fetching what is not there.

    `code`: fetch Python files, too. `flag` is what the message begins with. Raises
    ModelNotFoundError.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*_PATTERNS, "*.py"] if code else _PATTERNS
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=_IGNORED
            )
        )
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub has no revision {revision!r} of {hub_id}; write a branch, tag or "
            "commit of it (--unlearn-revision)"
        ) from error
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub gives {hub_id} only to those who accepted its terms; accept them on "
            f"https://huggingface.co/{hub_id} and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{flag}: the hub has no model {hub_id}, or it is private; check the name, or run "
            "`hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        cache = constants.HF_HUB_CACHE
        folder = Path(cache) / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
        raise ModelNotFoundError(
            f"{flag}: not in the cache ({cache}) and not to be had from the hub "
            f"({type(error).__name__}); on a machine with network run `hf download {hub_id} "
            f"--revision {revision}` and copy its cache here, so that the files lie in {folder}; "
            "or name another cache by HF_HUB_CACHE, set HF_HUB_OFFLINE=0 if there is network, "
            "or give the path of a local folder"
        ) from error
