"""Prepared portraits on disk: they come back as they were, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivavoce import Animator, Audio
from vivavoce.latent import store
from vivavoce.latent.motion_space import Reference
from vivavoce.latent.store import load_reference, save_reference


def test_a_portrait_from_disk_gives_the_same_frames(
    animator: Animator, small: Reference, sentence: Audio, tmp_path: Path
) -> None:
    save_reference(small, tmp_path / "one.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]
    again = load_reference(tmp_path / "one.npz")
    part = Audio(samples=sentence.samples[:, : sentence.rate], rate=sentence.rate)
    first, second = ([*session.push(part), *session.finish()] for session in map(animator.session, (small, again)))
    np.testing.assert_array_equal(np.stack(first), np.stack(second))
    assert again.seed(3) == small.seed(3) and again.size == small.size


def test_a_damaged_file_is_refused(small: Reference, tmp_path: Path) -> None:
    file = tmp_path / "one.npz"
    save_reference(small, file)
    whole = file.read_bytes()
    for content in (b"", b"no", whole[: len(whole) // 2], b"PK\x03\x04" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="prepare it again"):
            load_reference(file)


def test_a_file_of_another_version_is_refused(small: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    save_reference(small, tmp_path / "one.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format is"):
        load_reference(tmp_path / "one.npz")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", format=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="prepare it again"):
        load_reference(tmp_path / "one.npz")
