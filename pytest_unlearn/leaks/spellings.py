"""Texts in other spellings: signs and digits as words, in several languages, and leet.

All of this reads folded text (`decodings.fold`), and is linear in it.
"""

from __future__ import annotations

import re
import string

# --- "ann at example dot com" --------------------------------------------------------------------

# A host follows, or a dot that is also spelled out.
_AT = re.compile(r" at (?=[\w-]{1,63}(?:\.\w| dot | ?[\[({<]))")
_DOT = re.compile(r"[ _-]dot[ _-](?=\w)|[\[({<] ?(?:dot|punto) ?[\])}>]")
_AT_IN_BRACKETS = [
    f"{left}{word}{right}"
    for left, right in ("[]", "()", "{}", "<>")
    for word in ("at", " at ", "arroba")
]


def punctuated(folded: str) -> str:
    """Return a folded text with the spelled-out signs of e-mail addresses turned into signs."""
    text = _AT.sub("@", folded)
    for sign in _AT_IN_BRACKETS:
        text = text.replace(sign, "@")
    if "dot" not in text:
        return text
    for gap in "_-":
        text = text.replace(f"{gap}at{gap}", "@") if f"{gap}dot{gap}" in text else text
    return _DOT.sub(".", text) if "@" in text else folded


# --- number words ------------------------------------------------------------------------------

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spelled(folded: str) -> str:
    """Return a folded text with each English number word from zero to nine as a digit.

    Words inside words count too ("stone" gives "st1"): values are read in the same way, so the two
    still agree, and "b7" may be written "bseven".
    """
    for digit, word in zip(string.digits, NUMBER_WORDS, strict=True):
        folded = folded.replace(word, digit)
    return folded


# The digits of German, Spanish, French, Italian, Portuguese and Dutch, without accents.
_DIGITS = (
    "null eins zwei drei vier funf sechs sieben acht neun",
    "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "zero un deux trois quatre cinq six sept huit neuf",
    "zero uno due tre quattro cinque sei sette otto nove",
    "zero um dois tres quatro cinco seis sete oito nove",
    "nul een twee drie vier vijf zes zeven acht negen",
)
_DIGIT_OF = {"fuenf": "5", "zwo": "2"} | {
    word: str(digit) for language in _DIGITS for digit, word in enumerate(language.split())
}
_WORD = "|".join(sorted(_DIGIT_OF, key=lambda word: (-len(word), word)))
_DIGIT_WORD = re.compile(_WORD)
# Fewer in a row may be other words of these languages, or code ("null, null").
_DIGIT_WORDS = re.compile(rf"\b(?>(?:{_WORD})[\s,./_-]{{0,3}}+){{4,}}+")
# A number has one of these at least; they are rare in code and in English.
_TELLING = (
    *("eins", "zwei", "drei", "vier", "funf", "fuenf", "sechs", "sieben", "neun"),
    *("cero", "tres", "cuatro", "cinco", "siete", "ocho", "nueve"),
    *("deux", "trois", "quatre", "cinq", "huit", "neuf"),
    *("quattro", "cinque", "sette", "nove", "dois", "quatro", "oito"),
    *("twee", "vijf", "zeven", "negen"),
)
_HAN_DIGITS = {character: str(digit) for digit, character in enumerate("零一二三四五六七八九")}
_HAN_DIGITS["\u3007"] = "0"
_HAN_NUMBER = re.compile(rf"(?>[{''.join(_HAN_DIGITS)}][\s-]?+){{6,}}+")
_HAN_DIGIT = re.compile(rf"[{''.join(_HAN_DIGITS)}]")


def counted(folded: str) -> str:
    """Return a folded text with four or more digits in a row, in words of other languages, as
    digits; six or more in Chinese."""
    text = folded
    if any(word in text for word in _TELLING):
        text = _DIGIT_WORDS.sub(
            lambda run: "".join(_DIGIT_OF[word] for word in _DIGIT_WORD.findall(run.group())) + " ",
            text,
        )
    if not text.isascii():
        text = _HAN_NUMBER.sub(
            lambda run: "".join(_HAN_DIGITS[c] for c in _HAN_DIGIT.findall(run.group())), text
        )
    return text


# --- leet ----------------------------------------------------------------------------------------

# A one is an l or an i, so that these are read as the same letter.
_LETTER_OF = str.maketrans("013457$i", "oleastsl")
# A few between letters. The class comes first, which the regex engine finds quickly.
_LEET = re.compile(r"[013457$](?<=[a-z].)(?=[013457$]{0,6}[a-z])")


def leet(folded: str) -> str:
    """Return a folded text with digits that look like letters as these letters."""
    return folded.translate(_LETTER_OF)


def leet_lines(folded: str) -> str:
    """Return the lines of a folded text that may be leet, with letters for digits."""
    if not _LEET.search(folded):
        return ""
    return leet("\n".join(line for line in folded.split("\n") if _LEET.search(line)))
