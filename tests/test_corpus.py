"""The corpus: what is written is what is read, labels are where the sound is, and what must not train does not."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce.media.speak import TimedPhone, speak_phones
from vivavoce.speech.align import Aligner, grid_words, warp, words_of
from vivavoce.speech.encoder import SAMPLE_RATE_HZ
from vivavoce.speech.phones import BILABIAL, PHONES, SILENCE
from vivavoce.speech.segments import Segment, joined, segments_of, spanning
from vivavoce.speech.sound import at_rate
from vivavoce.train import recorded
from vivavoce.train.corpus import Utterance, Writer, padded, phones_at, read_corpus, write_flac
from vivavoce.train.recorded import RecordedConfig, find_recordings, pieces, speaker_of, speech_without_pictures
from vivavoce.train.synthetic import Language, SyntheticConfig, counted, make_synthetic, read_texts

SMALL = SyntheticConfig(
    languages={
        "en": Language(minutes=0.15, voices=("en", "en-us")), "hi": Language(minutes=0.05, voices=("hi",), split="heldout"),
    }
)


def phone(name: str) -> int:
    return PHONES.index(name)


def segment(start: float, end: float, name: str) -> Segment:
    return Segment(start=start, end=end, phone=phone(name))


def silently(_what: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "en.txt").write_text("People may be busy.\n\nMy mother bought a blue boat.\nBob, map the pub!\n")
    (folder / "hi.txt").write_text("मामा बाबा पापा।\n")
    return folder


def utterance(file: str = "a/b.flac") -> Utterance:
    return Utterance(
        file=file, language="en", speaker="me, or not", kind="synthetic", labels="events", split="train", source="x",
        licence='"y"',
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sound = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    segments = (segment(0, 0.25, "sil"), segment(0.25, 0.5, "b"), segment(0.5, 1.0, "ae"))
    writer = Writer(tmp_path)
    writer.add(utterance(), sound, segments)
    [read] = read_corpus(tmp_path)
    assert read == utterance()
    assert read.segments(tmp_path) == segments
    assert (read.sound(tmp_path) - sound).abs().max() < 1e-4
    assert Writer(tmp_path).has("a/b.flac")
    assert Writer(tmp_path).seconds("a/b.flac") == 1.0


def test_sound_beyond_full_scale_is_turned_down_not_clipped(tmp_path: Path) -> None:
    loud = 3 * torch.sin(torch.arange(16000) / 10)
    writer = Writer(tmp_path)
    writer.add(utterance(), loud, (segment(0, 1, "a"),))
    back = read_corpus(tmp_path)[0].sound(tmp_path)
    assert (back - loud * 0.33).abs().max() < 1e-3


def test_a_folder_that_is_no_corpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no INDEX\.csv"):
        read_corpus(tmp_path)
    writer = Writer(tmp_path)
    writer.add(utterance(), torch.zeros(16000), (segment(0, 1, "sil"),))
    with pytest.raises(ValueError, match="no utterance of the split 'heldout'"):
        read_corpus(tmp_path, "heldout")
    with pytest.raises(ValueError, match="is none of train, heldout"):
        replace(utterance(), split="test")
    (tmp_path / "a" / "b.phones.csv").write_text("start,end,phone\n0,1,nonsense\n")
    with pytest.raises(ValueError, match="no table of start, end and phone"):
        read_corpus(tmp_path)[0].segments(tmp_path)
    (tmp_path / "a" / "b.phones.csv").unlink()
    with pytest.raises(ValueError, match="is missing"):
        read_corpus(tmp_path)[0].segments(tmp_path)


def test_phones_at_frames() -> None:
    segments = (segment(0, 0.1, "sil"), segment(0.1, 0.16, "b"), segment(0.16, 0.3, "a"))
    found = phones_at(segments, 50, 20)
    assert [PHONES[p] for p in found.tolist()] == ["sil"] * 5 + ["b"] * 3 + ["a"] * 7 + ["sil"] * 5


def test_padding_moves_everything() -> None:
    sound = torch.ones(16000)
    longer, segments = padded(sound, (segment(0, 0.2, "sil"), segment(0.2, 1.0, "m")), 0.5, 0.25)
    assert len(longer) == 28000
    assert segments == (segment(0, 0.7, "sil"), segment(0.7, 1.5, "m"), segment(1.5, 1.75, "sil"))
    assert (longer[8000:24000] == 1).all()
    assert longer.sum() == 16000


def test_joining_leaves_nothing_empty() -> None:
    assert joined([segment(0, 1, "sil"), segment(1, 1, "a"), segment(1, 2, "sil"), segment(2, 3, "a"), segment(3, 4, "a")]) == (
        segment(0, 2, "sil"), segment(2, 3, "a"), segment(3, 4, "a"),
    )
    assert spanning([], 2.0) == (segment(0, 2, "sil"),)
    assert spanning([segment(0.5, 3.0, "a")], 2.0) == (segment(0, 0.5, "sil"), segment(0.5, 2.0, "a"))


def test_symbols_share_their_time() -> None:
    timed = [
        TimedPhone(start=0.0, end=0.1, symbol=""), TimedPhone(start=0.1, end=0.3, symbol="aɪ"),
        TimedPhone(start=0.3, end=0.4, symbol="(en)"), TimedPhone(start=0.4, end=0.5, symbol="m"),
    ]
    assert [(PHONES[s.phone], round(s.start, 3)) for s in segments_of(timed, 0.5)] == [
        ("sil", 0.0), ("a", 0.1), ("ih", 0.2), ("ih", 0.3), ("m", 0.4)
    ]


def test_a_spoken_corpus_goes_on_where_it_stopped(texts: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def impatiently(_what: str, done: int, _total: int) -> None:
        if len(list((tmp_path / "parts").rglob("*.flac"))) >= 2:
            raise Stop

    lines = read_texts(texts, SMALL)
    make_synthetic(lines, Writer(tmp_path / "whole"), silently, SMALL)
    with pytest.raises(Stop):
        make_synthetic(lines, Writer(tmp_path / "parts"), impatiently, SMALL)
    make_synthetic(lines, Writer(tmp_path / "parts"), silently, SMALL)
    whole, parts = (sorted(read_corpus(tmp_path / name), key=lambda u: u.file) for name in ("whole", "parts"))
    assert whole == parts
    assert {u.language: u.split for u in whole} == {"en": "train", "hi": "heldout"}
    for a, b in zip(whole, parts, strict=True):
        assert a.segments(tmp_path / "whole") == b.segments(tmp_path / "parts")


def test_labels_are_where_the_sound_is(texts: Path, tmp_path: Path) -> None:
    make_synthetic(read_texts(texts, SMALL), Writer(tmp_path), silently, SMALL)
    for made in read_corpus(tmp_path):
        sound, segments = made.sound(tmp_path), made.segments(tmp_path)
        assert segments[0].start == 0
        assert segments[-1].end == pytest.approx(len(sound) / SAMPLE_RATE_HZ, abs=1e-3)
        assert all(a.end == b.start for a, b in pairwise(segments))
        quiet = phones_at(segments, 1000, len(sound) // 16).repeat_interleave(16) == SILENCE
        power = sound[: len(quiet)].square()
        assert power[quiet].mean() < 1e-3 * power[~quiet].mean()


def test_texts_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no texts.*en\.txt"):
        read_texts(tmp_path, SMALL)


def test_training_never_speaks_the_languages_that_are_held_out() -> None:
    split = {code: language.split for code, language in SyntheticConfig().languages.items()}
    assert {code for code, where in split.items() if where == "heldout"} == {"hi", "ar", "ja", "sv", "ko"}


def test_counting_can_be_spoken() -> None:
    for code in ("en", "ru", "zh"):
        for seed in range(20):
            assert any(c.isalnum() for c in counted(np.random.default_rng(seed), code))


def test_grid_sentences() -> None:
    assert grid_words("bbaf2n") == ("bin", "blue", "at", "f", "two", "now")
    assert grid_words("swwzzs") == ("set", "white", "with", "zed", "zero", "soon")
    assert grid_words("lgia9p")[3] == "a(2)"
    for wrong in ("bbaf2", "xbaf2n", "bbafxn", ""):
        with pytest.raises(ValueError, match="no sentence of the GRID corpus"):
            grid_words(wrong)


def test_words_of_transcripts() -> None:
    assert words_of("Well-known: the 'forty-two line' Bible, isn’t it?") == (
        "well", "known", "the", "forty", "two", "line", "bible", "isn't", "it"
    )
    with pytest.raises(ValueError, match="digits"):
        words_of("in 1455")


def test_speakers_by_file() -> None:
    assert speaker_of("lj-LJ001-0012") == "lj-LJ001"
    assert speaker_of("libritts-train_mouse-1") == "libritts-train_mouse"
    assert speaker_of("jfk") == "jfk"


def test_pieces_are_parted_by_pauses() -> None:
    burst = 0.1 * torch.randn(2 * SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(1))
    pause = 1e-4 * torch.randn(SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(2))
    found = pieces(torch.cat([pause, burst, pause, burst, pause]), RecordedConfig())
    assert [(round(p.start / 16000, 1), round(p.stop / 16000, 1)) for p in found] == [(0.8, 3.2), (3.8, 6.2)]


def manifest(folder: Path) -> Path:
    """A folder of recordings: tones named like GRID's, and one of speech."""
    (folder / "speech").mkdir(parents=True)
    rows = [
        ("train/grid-s1-bbaf2n.mp4", "train", "grid-s1", "talk", "GRID corpus"),
        ("train/grid-s31-bbaf2n.mp4", "train", "grid-s31", "talk", "GRID corpus"),
        ("val/grid-s4-bbaf2n.mp4", "val", "grid-s4", "talk", "GRID corpus"), ("train/wild.mp4", "train", "w", "talk", "web"),
        ("val/wild.mp4", "val", "v", "talk", "web"), ("train/silent.mp4", "train", "s", "silent", "web"),
    ]
    with (folder / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "split", "speaker", "kind", "source", "licence"))
        writer.writerows((*row, "CC") for row in rows)
    with (folder / "speech" / "INDEX.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "language", "transcript", "source", "licence"))
        writer.writerow(("bob-1.flac", "en", "Bob, map the pub.", "me", "CC0"))
        writer.writerow(("leopard-de.flac", "de", "Mama backt", "me", "CC0"))
        writer.writerow(("else.flac", "ru", "", "me", "CC0"))
    return folder


def test_validation_never_trains(tmp_path: Path) -> None:
    found = find_recordings(manifest(tmp_path / "data"), RecordedConfig())
    assert {r.name: r.split for r in found} == {
        "grid/grid-s1-bbaf2n": "train", "grid/grid-s31-bbaf2n": "heldout", "grid/grid-s4-bbaf2n": "heldout",
        "speech/bob-1": "train", "speech/leopard-de": "heldout", "wild/wild": "train",
    }
    with pytest.raises(ValueError, match=r"no MANIFEST\.csv"):
        find_recordings(tmp_path, RecordedConfig())


def test_speech_without_pictures_is_told_by_speaker(tmp_path: Path) -> None:
    speech = manifest(tmp_path / "data") / "speech"
    assert speech_without_pictures(tmp_path / "data") == {
        "bob": [speech / "bob-1.flac"], "leopard-de": [speech / "leopard-de.flac"], "else": [speech / "else.flac"],
    }
    assert speech_without_pictures(tmp_path) == {}


def test_validation_never_trains_on_the_real_recordings(recordings: Path) -> None:
    for found in find_recordings(recordings, RecordedConfig()):
        if "/val/" in found.path.as_posix() or found.speaker in {"grid-s4", "grid-s31"}:
            assert found.split == "heldout", found


def test_a_speaker_of_the_grammar_gives_no_more_than_a_share(recordings: Path) -> None:
    found = find_recordings(recordings, RecordedConfig(per_speaker=3))
    assert sum(r.speaker == "grid-s1" for r in found) == 3


def spoken(text: str, voice: str = "en-us") -> tuple[Tensor, tuple[Segment, ...]]:
    audio, timed = speak_phones(text, voice)
    sound = at_rate(audio)
    sound, segments = padded(sound, segments_of(timed, len(sound) / SAMPLE_RATE_HZ), 0.3, 0.3)
    return sound + 1e-4 * torch.randn(len(sound), generator=torch.Generator().manual_seed(0)), segments


def late(found: tuple[Segment, ...], true: tuple[Segment, ...]) -> list[float]:
    """How much later than it is each bilabial was found, in seconds."""
    a, b = ([s.start for s in segments if s.phone in BILABIAL] for segments in (found, true))
    assert len(a) == len(b)
    return [x - y for x, y in zip(a, b, strict=True)]


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed: pip install 'vivavoce[train]'")
    return Aligner()


@pytest.mark.parametrize("text", ["My mother bought a blue boat", "Bob may map the pub"])
def test_aligned_words_are_where_espeak_said_them(aligner: Aligner, text: str) -> None:
    sound, true = spoken(text)
    found = aligner.align(sound, words_of(text))
    assert found is not None
    assert found[-1].end == pytest.approx(len(sound) / SAMPLE_RATE_HZ)
    errors = late(found, true)
    assert abs(np.median(errors)) < 0.02
    assert np.abs(errors).max() < 0.08


def test_unknown_words_are_learnt(aligner: Aligner) -> None:
    sound, true = spoken("a blimbomatic boat")
    found = aligner.align(sound, ("a", "blimbomatic", "boat"))
    assert found is not None
    assert np.abs(late(found, true)).max() < 0.08


def test_words_that_were_not_said_do_not_fit(aligner: Aligner) -> None:
    assert aligner.align(torch.zeros(1600), words_of("there is no time for so many words in a tenth of a second")) is None


def test_recordings_become_a_corpus(aligner: Aligner, tmp_path: Path) -> None:
    data = manifest(tmp_path / "data")
    (data / "train").mkdir()
    write_flac(data / "speech" / "bob-1.flac", spoken("Bob, map the pub.")[0])
    wanted = [r for r in find_recordings(data, RecordedConfig()) if r.name == "speech/bob-1"]
    for _ in range(2):  # the second time finds it there
        recorded.make_recorded(wanted, Writer(tmp_path / "corpus"), aligner, silently, RecordedConfig())
    [made] = read_corpus(tmp_path / "corpus", "train")
    assert (made.kind, made.labels, made.speaker) == ("recorded", "aligned", "bob")
    heard = [PHONES[s.phone] for s in made.segments(tmp_path / "corpus") if s.phone in BILABIAL]
    assert heard == ["b", "b", "m", "p", "p", "b"]


@pytest.mark.parametrize(("voice", "text"), [("de", "Mama backt ein braunes Brot"), ("es", "mi mamá pinta el barco")])
def test_another_voice_reading_is_warped_onto_speech(voice: str, text: str) -> None:
    sound, true = spoken(text, f"{voice}+m5")
    errors = late(warp(sound, text, voice), true)
    assert abs(np.median(errors)) < 0.03
    assert np.abs(errors).max() < 0.12
