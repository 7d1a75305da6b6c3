"""Small random-weight models for this room's tests, and one that knows a few texts by heart."""

from tests.support.known_texts import knowing, knowing_folder
from tests.support.small_models import llama, llama_folder

__all__ = ["knowing", "knowing_folder", "llama", "llama_folder"]
