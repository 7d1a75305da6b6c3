"""Loading a tokenizer so that it does what its file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pytest_unlearn.models.sources import ModelSource

# Spaces, digits, letters that no vocabulary holds whole, words that most hold: where kinds differ.
_SAMPLE = 'def  add(x1):\n\treturn "é 東京 2024" + the_value  # plus\n'


def load_tokenizer(source: ModelSource) -> Any:
    """Return the tokenizer of a model.

    transformers 5 picks a class by the model's type and builds the tokenizer anew from the
    vocabulary: CodeQwen1.5, whose type is that of Qwen2, gets byte-level BPE in place of its
    SentencePiece, and every prompt turns into other tokens without a word. So the result is
    compared with `tokenizer.json`, and where they differ the file is taken as it is.
    """
    files: dict[str, Any] = {"trust_remote_code": source.code}
    if source.gguf is not None:
        files["gguf_file"] = source.gguf
    tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, **files)
    path = source.folder / "tokenizer.json"
    if source.gguf is None and path.is_file():
        as_written = Tokenizer.from_file(str(path)).encode(_SAMPLE, add_special_tokens=False).ids
        if tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"] != as_written:
            return PreTrainedTokenizerFast.from_pretrained(source.folder)
    return tokenizer
