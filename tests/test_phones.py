"""Phone classes: what shows at the lips is never merged, and what does not show does not part."""

from __future__ import annotations

import pytest

from vivavoce.speech.phones import (
    BILABIAL,
    PHONES,
    VISEME_OF,
    VISEMES,
    from_arpabet,
    from_ipa,
    split_arpabet,
    split_ipa,
)


def look(symbol: str) -> str:
    phone = from_ipa(symbol)
    assert phone is not None
    return VISEMES[VISEME_OF[phone]]


def names(phones: tuple[int, ...]) -> list[str]:
    return [PHONES[p] for p in phones]


def test_silence_comes_first() -> None:
    assert PHONES[0] == VISEMES[0] == "sil"
    assert VISEME_OF[0] == 0


def test_names_are_unique_and_every_phone_has_a_look() -> None:
    assert len(set(PHONES)) == len(PHONES) == len(VISEME_OF)
    assert set(VISEME_OF) == set(range(len(VISEMES)))


@pytest.mark.parametrize("symbol", ["p", "b", "m", "pʰ", "bʰ", "pː", "pʲ", "bˤ", "p̚", "ᵐb", "m̩", "ɓ", "p͈", "mʲ", "ph", "β"])
def test_lips_close_on_bilabials_of_all_kinds(symbol: str) -> None:
    assert look(symbol) == "PBM"
    assert from_ipa(symbol) in BILABIAL


@pytest.mark.parametrize("symbol", ["f", "v", "ʋ", "fː", "vʲ", "ɱ", "ɸ"])
def test_lip_and_teeth(symbol: str) -> None:
    assert look(symbol) == "FV"


@pytest.mark.parametrize("symbol", ["w", "ɥ", "u", "uː", "y", "ʊ", "ʉ", "ũ"])
def test_rounded_sounds_are_rounded(symbol: str) -> None:
    assert look(symbol) == "U"


def test_nothing_else_closes() -> None:
    assert {PHONES[p] for p in BILABIAL} == {"p", "b", "m"}


@pytest.mark.parametrize("mark", ["ː", "ˑ", "ʰ", "ʲ", "ˤ", "ˠ", "̃", "̥", "̩", "5", "˥˩", "̯", "-", "^"])
@pytest.mark.parametrize("letter", ["t", "a", "ɛ", "s", "ŋ", "ç"])
def test_marks_do_not_change_a_letter(letter: str, mark: str) -> None:
    assert split_ipa(letter + mark) == split_ipa(letter) == split_ipa("ˈ" + letter) == split_ipa("ˌ" + letter)


@pytest.mark.parametrize(
    ("symbol", "parts"),
    [
        ("aɪ", ["a", "ih"]), ("aɪə", ["a", "ih", "ax"]), ("ts", ["t", "s"]), ("pf", ["p", "f"]), ("tʃ", ["ch"]), ("t͡ʃ", ["ch"]),
        ("dʑ", ["jh"]), ("ʈʂ", ["ch"]), ("ts.h", ["ch"]), ("s.", ["sh"]), ("r.", ["rr"]), ("ʔe", ["e"]), ("ʔ", ["h"]),
        ("h", ["h"]), ("(en)", []), ("", []), ("ʲ", []), ("5", []), ("ss", ["s"]), ("ʁ", ["x"]), ("ɖ", ["d"]),
    ],
)
def test_symbols_are_cut_where_the_sound_changes(symbol: str, parts: list[str]) -> None:
    assert names(split_ipa(symbol)) == parts
    assert from_ipa(symbol) == (split_ipa(symbol)[0] if parts else None)


def test_arpabet_says_what_its_ipa_says() -> None:
    same = {
        "P": "p", "B": "b", "M": "m", "F": "f", "V": "v", "TH": "θ", "DH": "ð", "SH": "ʃ", "ZH": "ʒ", "CH": "tʃ", "JH": "dʒ",
        "NG": "ŋ", "HH": "h", "Y": "j", "W": "w", "R": "ɹ", "IY": "i", "IH": "ɪ", "EH": "ɛ", "AE": "æ", "AA": "ɑ", "AO": "ɔ",
        "UH": "ʊ", "UW": "u", "ER": "ɜ", "AX": "ə", "AY": "aɪ", "AW": "aʊ", "EY": "eɪ", "OW": "oʊ", "OY": "ɔɪ", "AH": "ʌ",
        "DX": "ɾ",
    }
    for arpabet, ipa in same.items():
        assert split_arpabet(arpabet) == split_arpabet(arpabet.lower() + "1") == split_ipa(ipa), arpabet
        assert from_arpabet(arpabet) == from_ipa(ipa)


def test_unknown_symbols_are_nobody() -> None:
    assert from_arpabet("QQ") is None
    assert from_ipa("@") is None
    assert split_arpabet("SIL") == (0,)
