"""Adds speech of flite's and Festival's voices, with their phones in time, to a corpus that `vivavoce train corpus` reads.

Needs the programs and voices of Debian: apt install flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
festvox-italp16k festvox-itapc16k festvox-czech-ph festvox-czech-dita festvox-suopuhe-lj festvox-suopuhe-mv festvox-ca-ona-hts
festvox-hi-nsk festvox-ru. Voices that are not installed are passed over. The recordings from which Festival's Russian voice is
cut come with it, with their phones: recorded human speech.

    python scripts/festival_corpus.py --texts TEXTS -o CORPUS [--minutes 45]
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivavoce.speech.phones import SILENCE, split_arpabet, split_ipa
from vivavoce.speech.segments import Segment, spanning
from vivavoce.speech.sound import load_sound
from vivavoce.train.corpus import Utterance, Writer, padded

BATCH = 12  # sentences that one process speaks
SPEAK_SECONDS = 300.0

def _alphabet(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


# Phones of the voices' own alphabets in IPA, where a phone is not its own IPA letter. Marks of stress and length are taken off
# before (Russian doubles letters: softness of consonants, stress of vowels).
ITALIAN = _alphabet("E:ɛ O:ɔ S:ʃ Z:ʒ ts:ts tS:tʃ dz:dz dZ:dʒ J:ɲ ng:ŋ nf:ɱ L:ʎ r:r")
CZECH = _alphabet("c:ts c~:tʃ ch:x d~:ɟ dz:dz dz~:dʒ n*:ŋ n~:ɲ r~:r r~*:r s~:ʃ t~:c z~:ʒ h:ɦ _:ʔ")
FINNISH = _alphabet("@:æ 7:ø &:ə T:θ S:ʃ N:ŋ L:l D:ð Z:ʒ")
CATALAN = _alphabet("ax:ə E:ɛ O:ɔ J:ɲ L:ʎ S:ʃ Z:ʒ rr:r r:ɾ")
HINDI = _alphabet(
    "aa:a ih:ɪ iy:i uh:ʊ uw:u eh:ɛ ee:e ay:aɪ oo:o oh:o aw:aʊ ch:tʃ T:ʈ D:ɖ N:ɳ th:t dh:d R:ɽ "
    "sh:ʃ ksh:kʃ sri:ʃri kh:k gh:ɡ td:t tth:ʈ ddh:ɖ bh:b zh:ʒ @:ə y:j"
)
RUSSIAN = _alphabet("ay:ə ae:e ur:u y:ɨ c:ts ch:tʃ sh:ʃ sch:ʃ zh:ʒ h:x hh:x")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice of one of the programs. ``alphabet``: its phones in IPA, None for ARPAbet."""

    program: str
    name: str
    language: str
    alphabet: dict[str, str] | None = None
    encoding: str = "utf-8"
    split: str = "train"
    share: float = 1.0


VOICES = (
    *(Voice(program="flite", name=name, language="en", share=share) for name, share in
      (("kal", 0.4), ("kal16", 0.8), ("awb", 1.2), ("rms", 1.5), ("slt", 1.5))),
    Voice(program="festival", name="kal_diphone", language="en", share=0.4),
    Voice(program="festival", name="ked_diphone", language="en"),
    Voice(program="festival", name="cmu_us_slt_arctic_hts", language="en"),
    Voice(program="festival", name="lp_diphone", language="it", alphabet=ITALIAN, encoding="latin-1"),
    Voice(program="festival", name="pc_diphone", language="it", alphabet=ITALIAN, encoding="latin-1"),
    Voice(program="festival", name="czech_ph", language="cs", alphabet=CZECH, encoding="iso-8859-2"),
    Voice(program="festival", name="czech_dita", language="cs", alphabet=CZECH, encoding="iso-8859-2"),
    Voice(program="festival", name="czech_machac", language="cs", alphabet=CZECH, encoding="iso-8859-2"),
    Voice(program="festival", name="suo_fi_lj_diphone", language="fi", alphabet=FINNISH, encoding="latin-1"),
    Voice(program="festival", name="hy_fi_mv_diphone", language="fi", alphabet=FINNISH, encoding="latin-1"),
    Voice(program="festival", name="upc_ca_ona_hts", language="ca", alphabet=CATALAN, encoding="iso-8859-15"),
    Voice(program="festival", name="hindi_NSK_diphone", language="hi", alphabet=HINDI, split="heldout", share=0.5),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", type=Path, required=True, help="folder with en.txt, it.txt ...: a sentence per line")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the corpus, which may exist")
    parser.add_argument("--minutes", type=float, default=45.0, help="synthetic speech in all")
    parser.add_argument("--flite", default="flite", help="the program, with options")
    parser.add_argument("--festival", default="festival", help="the program, with options such as --libdir")
    parser.add_argument("--russian", type=Path, help="folder of Festival's Russian voice",
                        default=Path("/usr/share/festival/voices/russian/msu_ru_nsh_clunits"))
    options = parser.parse_args()
    writer = Writer(options.output)
    total = sum(voice.share for voice in VOICES)
    for voice in VOICES:
        made = speak_voice(voice, options, writer, 60 * options.minutes * voice.share / total)
        print(f"{voice.program} {voice.name}: {made / 60:.1f} minutes", flush=True)
    if options.russian.is_dir():
        print(f"recordings of the Russian voice: {russian(options.russian, writer) / 60:.1f} minutes", flush=True)


def speak_voice(voice: Voice, options: argparse.Namespace, writer: Writer, wanted_seconds: float) -> float:
    """Speaks random lines of the voice's language until there is enough; the seconds made or found."""
    texts = options.texts / f"{voice.language}.txt"
    lines = [clean(line, voice) for line in texts.read_text(encoding="utf-8").splitlines()] if texts.is_file() else []
    lines = [line for line in lines if line]
    seconds, number, failed = 0.0, 0, 0
    while lines and seconds < wanted_seconds and failed < 3:
        rng = np.random.default_rng((zlib.crc32(voice.name.encode()), number))
        batch = [lines[i] for i in rng.integers(0, len(lines), BATCH)]
        names = [f"{voice.program}/{voice.name}/{number + i:05d}.flac" for i in range(BATCH)]
        number += BATCH
        present = sum(writer.seconds(name) for name in names if writer.has(name))
        if not present:
            present = add_batch(voice, names, batch, options, writer, rng)
        failed = 0 if present else failed + 1
        seconds += present
    return seconds


def add_batch(
    voice: Voice, names: Sequence[str], lines: Sequence[str], options: argparse.Namespace, writer: Writer,
    rng: np.random.Generator,
) -> float:
    """Speaks some lines; the seconds that came of it."""
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        spoken = spoken_by_flite if voice.program == "flite" else spoken_by_festival
        for i, marks in spoken(voice, lines, Path(folder), options, rng):
            sound = load_sound(Path(folder) / f"{i}.wav")
            segments = segments_of(marks, voice.alphabet, sound.shape[0] / 16000)
            if segments is None or float(sound.abs().max()) < 1e-3:
                continue
            sound, segments = padded(sound, segments, *(float(s) for s in rng.uniform(0.0, 0.4, 2)))
            writer.add(Utterance(
                file=names[i], language=voice.language, speaker=f"{voice.program}-{voice.name}", kind="synthetic",
                labels="events", split=voice.split, source=voice.program, licence="synthetic",
            ), sound, segments)
            seconds += sound.shape[0] / 16000
    return seconds


Marks = list[tuple[float, str]]  # end in seconds, phone


def spoken_by_flite(
    voice: Voice, lines: Sequence[str], folder: Path, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[tuple[int, Marks]]:
    for i, line in enumerate(lines):
        stretch = f"duration_stretch={rng.uniform(0.75, 1.3):.2f}"
        command = [*shlex.split(options.flite), "-voice", voice.name, "--setf", stretch, "-psdur", "-o", f"{folder}/{i}.wav"]
        done = subprocess.run([*command, "-t", line], capture_output=True, text=True, timeout=SPEAK_SECONDS, check=False)
        pairs = re.findall(r"(\S+):([0-9.]+)", done.stdout)
        if done.returncode == 0 and pairs:
            yield i, [(float(end), phone) for phone, end in pairs]


def spoken_by_festival(
    voice: Voice, lines: Sequence[str], folder: Path, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[tuple[int, Marks]]:
    program = [f"(voice_{voice.name})"]
    for i, line in enumerate(lines):
        stretch = rng.uniform(0.75, 1.25)
        program.append(
            f"(Parameter.set 'Duration_Stretch {stretch:.2f})\n"
            f'(unwind-protect (begin (set! utt (SynthText "{line}")) (utt.save.wave utt "{folder}/{i}.wav" \'riff)'
            f' (utt.save.segs utt "{folder}/{i}.segs")) nil)'
        )
    (folder / "speak.scm").write_bytes("\n".join(program).encode(voice.encoding, errors="ignore"))
    subprocess.run(
        [*shlex.split(options.festival), "-b", f"{folder}/speak.scm"], capture_output=True, timeout=SPEAK_SECONDS, check=False
    )
    for i in range(len(lines)):
        segs = folder / f"{i}.segs"
        if segs.is_file() and (folder / f"{i}.wav").is_file():
            yield i, labels(segs)


def labels(path: Path) -> Marks:
    """A label file of Festival's: after a line "#", the end in seconds, a colour and the phone."""
    rows = (line.split() for line in path.read_text(encoding="latin-1").partition("#")[2].splitlines())
    return [(float(row[0]), row[2]) for row in rows if len(row) == 3]


def segments_of(marks: Marks, alphabet: dict[str, str] | None, seconds: float) -> tuple[Segment, ...] | None:
    """None where the marks are not of that sound."""
    if not marks or abs(marks[-1][0] - seconds) > 0.1 + 0.02 * seconds:
        return None
    found: list[Segment] = []
    start = 0.0
    for end, phone in marks:
        classes = classes_of(phone, alphabet) or ((found[-1].phone,) if found else (SILENCE,))
        edges = np.linspace(start, end, len(classes) + 1)
        found += [Segment(start=float(a), end=float(b), phone=c) for a, b, c in zip(edges, edges[1:], classes, strict=False)]
        start = max(start, end)
    return spanning(found, seconds)


def classes_of(phone: str, alphabet: dict[str, str] | None) -> tuple[int, ...]:
    if phone in {"#", "##", "pau", "h#", "brth", "SIL", "ssil"}:
        return (SILENCE,)
    if alphabet is None:
        return split_arpabet(phone)
    plain = phone.rstrip("1:")
    if alphabet is RUSSIAN and len(plain) == 2 and plain[0] == plain[1] and plain != "hh":
        plain = plain[0]
    return split_ipa(alphabet.get(plain, plain))


def clean(line: str, voice: Voice) -> str:
    """A line that the voice can read and that no Scheme string or option trips over; empty where it cannot."""
    plain = re.sub(r"[\"\\<>{}()\[\]`|_^~*#]", " ", line).strip(" -'")
    known = plain.encode(voice.encoding, errors="ignore").decode(voice.encoding)
    return known if known == plain and 8 <= len(plain) <= 120 and not re.search(r"\d{5}", plain) else ""


def russian(folder: Path, writer: Writer, train: int = 260, heldout: int = 30) -> float:
    """Recordings of the speaker of Festival's Russian voice with the phones that its maker found in them."""
    seconds = 0.0
    files = sorted((folder / "wav").glob("*.wav"))
    chosen = np.linspace(0, len(files) - 1, min(len(files), train + heldout)).round().astype(int)
    for n, path in enumerate(files[i] for i in chosen):
        name = f"russian/{path.stem}.flac"
        marks = folder / "lab" / f"{path.stem}.lab"
        if not marks.is_file():
            continue
        if not writer.has(name):
            sound = load_sound(path)
            segments = segments_of(labels(marks), RUSSIAN, sound.shape[0] / 16000)
            if segments is None:
                continue
            split = "heldout" if n % (len(chosen) // heldout) == 0 else "train"
            writer.add(Utterance(
                file=name, language="ru", speaker="festvox-ru", kind="recorded", labels="aligned", split=split,
                source="festvox-ru (Nickolay V. Shmyrev)", licence="BSD-like",
            ), sound, segments)
        seconds += writer.seconds(name)
    return seconds


if __name__ == "__main__":
    main()
