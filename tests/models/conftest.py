"""Small random-weight models for this room's tests."""

from tests.model_fixtures import llama, llama_folder

__all__ = ["llama", "llama_folder"]
