"""Small random-weight models for this room's tests."""

from tests.support.small_models import llama, llama_folder

__all__ = ["llama", "llama_folder"]
