"""The tokenizer of an endpoint's model, through vLLM's or llama.cpp's `/tokenize`.

It is called like those of transformers, so that the same values are cut in the same places.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pytest_unlearn.models.endpoint_client import Client, EndpointError, RefusedError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# A token's id, and the bytes of the text that it stands for.
Piece = tuple[int, bytes]


class EndpointTokenizer:
    """Tokenizes texts by asking a server, and caches the answers.

    `pieces(text, special)` asks for one text. Raises EndpointError for pieces that do not spell the
    text.
    """

    def __init__(self, client: Client, pieces: Callable[[str, bool], list[Piece]]) -> None:
        self._client = client
        self._pieces = pieces
        self._known: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._cut = functools.lru_cache(maxsize=4096)(self._encoded)

    def __call__(
        self,
        texts: str | Sequence[str],
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
    ) -> dict[str, Any]:
        """Return `input_ids` and `offset_mapping` (characters) of one text or of several."""
        if isinstance(texts, str):
            ids, offsets = self._cut(texts, add_special_tokens)
            return {"input_ids": ids, "offset_mapping": offsets}
        encodings = []
        for row in self._client.each(lambda text: self._cut(text, add_special_tokens), texts):
            if isinstance(row, EndpointError):
                raise row
            encodings.append(row)
        return {
            "input_ids": [ids for ids, _ in encodings],
            "offset_mapping": [offsets for _, offsets in encodings],
        }

    def ids(self, text: str) -> list[int]:
        """Return a text's token ids, including those that start every text."""
        return list(self._cut(text, True)[0])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids that this tokenizer returned."""
        with self._lock:
            return b"".join(self._known.get(each, b"") for each in ids).decode("utf-8", "replace")

    @functools.cached_property
    def _start(self) -> list[int]:
        """Return the tokens that start every text."""
        return [token for token, _ in self._pieces("", True)]

    def _encoded(self, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        pieces = self._pieces(text, special) if text else []
        ids = [token for token, _ in pieces]
        start = self._start if special else []
        if not text:
            return list(start), [(0, 0)] * len(start)
        if ids[: len(start)] != start:
            raise EndpointError(
                "the endpoint's /tokenize starts a text with different tokens than an empty text"
            )
        parts = pieces[len(start) :]
        raw = text.encode("utf-8", "surrogatepass")
        joined = b"".join(part for _, part in parts)
        # SentencePiece puts a space before a text's first word.
        shift = 1 if joined == b" " + raw else 0
        if joined[shift:] != raw:
            raise EndpointError("the endpoint's /tokenize gives tokens that do not spell the text")
        with self._lock:
            self._known.update(parts)
        return ids, [*[(0, 0)] * len(start), *_offsets(text, [p for _, p in parts], shift)]


def _offsets(text: str, parts: Sequence[bytes], shift: int) -> list[tuple[int, int]]:
    """Return the characters that each piece covers; a piece of a part of a character covers all of
    it."""
    owner = [n for n, char in enumerate(text) for _ in char.encode("utf-8", "surrogatepass")]
    offsets, at = [], -shift
    for part in parts:
        begin, end = max(0, at), at + len(part)
        offsets.append((owner[begin], owner[end - 1] + 1) if end > begin else (0, 0))
        at = end
    return offsets


def tokenizer_of(client: Client, model: str, text: str) -> EndpointTokenizer | None:
    """Return the tokenizer of a server, in vLLM's or llama.cpp's form; None if it has neither.

    `text`: the text to try both on.
    """

    def llama(text: str, special: bool, attempts: int | None) -> list[Piece]:
        body = {"content": text, "add_special": special, "with_pieces": True}
        answer = client.post("/tokenize", body, above=True, attempts=attempts)
        return [(_id(t.get("id")), _llama_piece(t.get("piece"))) for t in _objects(answer)]

    def vllm(
        text: str, special: bool, attempts: int | None, spell: Callable[[str], bytes]
    ) -> list[Piece]:
        body: dict[str, Any] = {"model": model, "prompt": text, "add_special_tokens": special}
        body["return_token_strs"] = True
        answer = client.post("/tokenize", body, above=True, attempts=attempts)
        ids, names = answer.get("tokens"), answer.get("token_strs")
        if not isinstance(ids, list) or not isinstance(names, list) or len(ids) != len(names):
            raise EndpointError("the endpoint's /tokenize returns no tokens")
        return [(_id(each), spell(str(name))) for each, name in zip(ids, names, strict=True)]

    ways: list[Callable[..., list[Piece]]] = [
        *(functools.partial(vllm, spell=spell) for spell in (_of_bytes, _of_sentencepiece)),
        llama,
    ]
    for pieces in ways:
        try:
            if EndpointTokenizer(client, functools.partial(pieces, attempts=1)).ids(text):
                return EndpointTokenizer(client, functools.partial(pieces, attempts=None))
        except RefusedError as error:
            if error.status in (404, 405, 501):
                return None
        except EndpointError:
            continue
    return None


def _id(value: Any) -> int:
    if not isinstance(value, int):
        raise EndpointError("the endpoint's /tokenize gives token ids that are not numbers")
    return value


def _objects(answer: dict[str, Any]) -> list[dict[str, Any]]:
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise EndpointError("the endpoint's /tokenize gives no pieces")
    return tokens


def _llama_piece(piece: Any) -> bytes:
    """Return a piece's bytes; llama.cpp gives incomplete characters as a list of bytes."""
    if isinstance(piece, str):
        return piece.encode("utf-8", "surrogatepass")
    if isinstance(piece, list) and all(isinstance(b, int) and 0 <= b < 256 for b in piece):
        return bytes(piece)
    raise EndpointError("the endpoint's /tokenize gives pieces that are neither text nor bytes")


def _of_bytes(name: str) -> bytes:
    """Return the bytes of a token as byte-level vocabularies spell it (GPT-2's letters)."""
    letters = _letters()
    if any(letter not in letters for letter in name):
        return name.encode("utf-8", "surrogatepass")  # an added token
    return bytes(letters[letter] for letter in name)


@functools.cache
def _letters() -> dict[str, int]:
    """Map GPT-2's letters to bytes: printable ones are themselves, the others start at 256.

    Source: `bytes_to_unicode` of openai/gpt-2.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _of_sentencepiece(name: str) -> bytes:
    match = _BYTE.fullmatch(name)
    return (
        bytes([int(match[1], 16)])
        if match
        else name.replace("\u2581", " ").encode("utf-8", "surrogatepass")
    )
