"""Universal phone classes: what IPA and ARPAbet symbols of any language become, and how each class looks on the lips.

The classes are as fine as a listener of many languages can keep apart and as coarse as all of them need: length, tone, stress,
nasalisation, aspiration, palatalisation and pharyngealisation are left out, retroflex and dental sounds join the alveolar ones,
uvular the velar, pharyngeal and glottal the breath. What shows at the lips is never merged: bilabial closures (p, b, m, whatever
their release), labiodentals (f, v, ʋ) and rounded sounds (w, ɥ, u, y, o, ø) have classes of their own.

A symbol that changes its sound midway (diphthongs, ts, pf) is several classes in turn, each with an equal share of the time; tʃ
and dʒ are one class each, because their two halves look the same. β counts as b (its lips nearly close), ɸ as f (they stay
apart).
"""

from __future__ import annotations

import re
import unicodedata

# Phone class: (viseme, IPA letters and digraphs, ARPAbet symbols).
_CLASSES: dict[str, tuple[str, str, str]] = {
    "sil": ("sil", "", "SIL SPN NSN PAU H# <SIL>"),
    "p": ("PBM", "p", "P"),
    "b": ("PBM", "b ɓ β ʙ", "B"),
    "m": ("PBM", "m", "M EM"),
    "f": ("FV", "f ɸ", "F"),
    "v": ("FV", "v ʋ ⱱ ɱ", "V"),
    "th": ("TH", "θ", "TH"),
    "dh": ("TH", "ð", "DH"),
    "t": ("TDN", "t ʈ ƭ", "T"),
    "d": ("TDN", "d ɖ ɗ ᶑ", "D"),
    "n": ("TDN", "n ɳ ɲ ȵ", "N EN"),
    "l": ("TDN", "l ɭ ɫ ɬ ɮ ʎ ʟ ɺ", "L EL"),
    "rr": ("TDN", "r ɾ ɽ", "DX"),
    "s": ("SZ", "s", "S"),
    "z": ("SZ", "z", "Z"),
    "sh": ("SH", "ʃ ʂ ɕ ɧ", "SH"),
    "zh": ("SH", "ʒ ʐ ʑ", "ZH"),
    "ch": ("SH", "tʃ tʂ ʈʂ tɕ ʧ ʨ ꭧ", "CH"),
    "jh": ("SH", "dʒ dʐ ɖʐ dʑ ʤ ʥ ꭦ", "JH"),
    "k": ("KG", "k q c ƙ", "K"),
    "g": ("KG", "ɡ g ɢ ɟ ɠ ʛ ʄ", "G"),
    "ng": ("KG", "ŋ ɴ", "NG"),
    "x": ("KG", "x ɣ χ ʁ ʀ ç ɰ", ""),
    "h": ("KG", "h ɦ ħ ʕ ʔ ʜ ʡ ʢ", "HH HV Q"),
    "r": ("R", "ɹ ɻ", "R"),
    "j": ("I", "j ʝ", "Y"),
    "w": ("U", "w ɥ ʍ", "W WH"),
    "i": ("I", "i", "IY"),
    "ih": ("I", "ɪ ᵻ", "IH"),
    "ix": ("I", "ɨ ɯ", "IX"),
    "e": ("E", "e ɘ", ""),
    "eh": ("E", "ɛ ε", "EH"),
    "ax": ("E", "ə", "AX"),
    "er": ("E", "ɜ ɝ ɚ", "ER AXR"),
    "ae": ("A", "æ", "AE"),
    "a": ("A", "a", ""),
    "aa": ("A", "ɑ", "AA"),
    "ah": ("A", "ʌ ɐ ɤ", "AH"),
    "ao": ("O", "ɔ ɒ", "AO OH"),
    "o": ("O", "o", ""),
    "oe": ("O", "ø œ ɞ ɶ", ""),
    "uh": ("U", "ʊ ɵ", "UH"),
    "u": ("U", "u ʉ", "UW UX"),
    "y": ("U", "y ʏ", ""),
}

PHONES: tuple[str, ...] = tuple(_CLASSES)
"""Names of the classes; the first is silence."""

VISEMES: tuple[str, ...] = tuple(dict.fromkeys(viseme for viseme, _, _ in _CLASSES.values()))
"""Names of the groups that look alike; the first is silence."""

VISEME_OF: tuple[int, ...] = tuple(VISEMES.index(viseme) for viseme, _, _ in _CLASSES.values())
"""Phone -> viseme, by index."""

SILENCE = 0
BILABIAL: frozenset[int] = frozenset(i for i, v in enumerate(VISEME_OF) if VISEMES[v] == "PBM")
"""Phones whose lips close."""

_IPA = {symbol: i for i, (_, symbols, _) in enumerate(_CLASSES.values()) for symbol in symbols.split()}
_ARPABET: dict[str, tuple[int, ...]] = {
    symbol: (i,) for i, (_, _, symbols) in enumerate(_CLASSES.values()) for symbol in symbols.split()
}
_ARPABET |= {
    symbol: tuple(PHONES.index(part) for part in parts.split())
    for symbol, parts in {"AY": "a ih", "AW": "a uh", "EY": "e ih", "OW": "o uh", "OY": "ao ih", "NX": "n", "BCL": "b"}.items()
}


def split_ipa(symbol: str) -> tuple[int, ...]:
    """The classes of an IPA symbol in turn, each with an equal share of its time; none where nothing in it is known.

    Diacritics, modifier letters, tone, stress and length are ignored, and so is a nasal before a bilabial ("ᵐb" is b).
    """
    letters = _letters(symbol)
    found: list[int] = []
    i = 0
    while i < len(letters):
        size = 2 if letters[i : i + 2] in _IPA else 1
        phone = _IPA.get(letters[i : i + size])
        if phone is not None and (not found or found[-1] != phone):
            found.append(phone)
        i += size
    return tuple(found)


def split_arpabet(symbol: str) -> tuple[int, ...]:
    """The classes of an ARPAbet symbol in turn, in either case, with or without a stress digit; none where it is unknown."""
    return _ARPABET.get(symbol.upper().rstrip("012"), ())


def from_ipa(symbol: str) -> int | None:
    """The class of an IPA symbol, the first one where it has several."""
    return next(iter(split_ipa(symbol)), None)


def from_arpabet(symbol: str) -> int | None:
    """The class of an ARPAbet symbol, the first one where it has several."""
    return next(iter(split_arpabet(symbol)), None)


def _letters(symbol: str) -> str:
    """The full letters of a symbol: ç is one, decomposed or not; everything that only modifies one is gone.

    eSpeak NG leaves some marks in ASCII: "s." is retroflex, "ph" aspirated, "(en)" a change of language, "ʔe" creaky.
    """
    whole = unicodedata.normalize("NFC", re.sub(r"\([^)]*\)", "", symbol)).replace("s.", "ʂ").replace("z.", "ʐ")
    plain = "".join(c if c == "ç" else unicodedata.normalize("NFD", c) for c in whole)
    letters = "".join(c for c in plain if unicodedata.category(c) in {"Ll", "Lo"})
    return re.sub(r"(?<=.)h|ʔ(?=.)", "", letters)
