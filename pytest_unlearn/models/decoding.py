"""From token ids to text, without losing what stands beside a broken character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BROKEN = "�"


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of token ids, special tokens left out; a broken character becomes U+FFFD.

    SentencePiece tokenizers spell rare characters in tokens of one byte, and their decoder turns
    a whole run of these into U+FFFD where any of it is no UTF-8: a completion that is cut inside
    a character would lose the value written before it. Here only the bytes that fit nowhere do.
    """
    plain: Any = tokenizer.decode
    text = str(plain(ids, skip_special_tokens=True))
    if _BROKEN not in text:
        return text
    named: Any = tokenizer.convert_ids_to_tokens(list(ids))
    # A model's vocabulary can be larger than its tokenizer's: such ids have no name.
    matches = (_BYTE.fullmatch(name or "") for name in named)
    numbers = [int(match[1], 16) if match else None for match in matches]
    if not any(number is not None for number in numbers):
        return text
    spelled: list[int] = []
    run: list[int] = []
    for token, number in [*zip(ids, numbers, strict=True), (None, None)]:
        if number is not None:
            run.append(number)
            continue
        whole = bytes(run).decode("utf-8", "replace").encode()
        found: Any = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in whole])
        spelled += found
        run = []
        if token is not None:
            spelled.append(token)
    return str(plain(spelled, skip_special_tokens=True))
