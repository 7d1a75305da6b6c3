"""Loading a tokenizer so that it does what its file says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pytest_unlearn.models.sources import ModelSource

# What tokenizers of different kinds cut differently: runs of spaces and of line ends, tabs, digits,
# contractions, letters that no vocabulary holds whole, words that most hold, and combining marks.
_SAMPLES = (
    'def  add(x1):\n\treturn "é 東京 2024" + the_value  # plus\n',
    "class User:\n    def __init__(self, name):\n        self.name = name\n\n\n        pass\n",
    "if x:\r\n  y = [ 1,2, 34567 ]\r\n\r\n\t\t    z = {'key':  'it's', \"we'll\": -0.5e-10}   \n",
    "   leading, trailing   ",
    "HELLO World's don't I'VE they're  10,000.00 x==y!=z >>= ... -> :: //**",
    "Zoe\u0301 A\u030angstro\u0308m \ufb01 ½ ² \uff21\uff22 \u00a0\u3000 \ufeff",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31 \uc548\ub155 \U0001f469\u200d",
    "<b>a</b> & user@example.com https://example.com/a?b=c#d $HOME %s {0} \\n `x`",
)


def load_tokenizer(source: ModelSource) -> Any:
    """Return the tokenizer of a model.

    transformers 5 picks a class by the model's type and builds the tokenizer anew from the
    vocabulary: CodeQwen1.5, whose type is that of Qwen2, gets byte-level BPE in place of its
    SentencePiece, and every prompt turns into other tokens without a word. So the result is
    compared with `tokenizer.json`, and where they differ the file is taken as it is.
    """
    folder = source.tokenizer_folder
    files: dict[str, Any] = {"trust_remote_code": source.code}
    if source.gguf is not None and folder == source.folder:
        files["gguf_file"] = source.gguf
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **files)
    path = folder / "tokenizer.json"
    if "gguf_file" not in files and path.is_file():
        as_written = Tokenizer.from_file(str(path))
        if not _cut_alike(tokenizer, as_written):
            return PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _cut_alike(tokenizer: Any, as_written: Tokenizer) -> bool:
    """Tell whether a tokenizer does what its file says, by its parts and by samples."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        mine, file = (json.loads(each.to_str()) for each in (backend, as_written))
        if any(mine[part] != file[part] for part in ("normalizer", "pre_tokenizer")):
            return False
    return all(
        tokenizer(sample, add_special_tokens=False)["input_ids"]
        == as_written.encode(sample, add_special_tokens=False).ids
        for sample in _SAMPLES
    )
