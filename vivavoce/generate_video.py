"""Speech features to latents of video, of any length: windows one after the other, or windows that slide while all is solved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vivavoce.flow.guide import guided, mask_guided, pinned, with_prefix
from vivavoce.flow.path import VelocityField, interpolate
from vivavoce.flow.slide import integrate_sliding
from vivavoce.flow.solve import euler, integrate
from vivavoce.generate import frame_noise
from vivavoce.latent.stills import known_pictures, known_then
from vivavoce.latent.video import VideoSpace
from vivavoce.nets.hearing import Memory, hear, hear_silence
from vivavoce.nets.redistribute import PICTURES
from vivavoce.nets.video import VideoTransformer
from vivavoce.nets.video_condition import VideoCondition, Voice, still_channels
from vivavoce.video_scene import Scene, VideoState, VideoWindows, Window

Count = Callable[[int, int | None], None]
"""Told (steps done, steps in all or None while the sound has not ended)."""


class VideoGenerator:
    """A video network with its windows. Holds constants only; may be shared by any number of videos.

    The noise of latent i is a function of (seed, i), and windows sit at absolute places, so that the video does not depend on how
    the speech was cut. Speech comes as two features for each picture.
    """

    def __init__(
        self, net: VideoTransformer, windows: VideoWindows, *, silence: Float[Tensor, " w"] | None = None,
        space: VideoSpace | None = None, device: torch.device | str = "cpu",
        watching: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        """``silence``: the features of silence, for networks that hear. ``space``: for bases that are told of pictures (Wan 2.1
        I2V); ``watching`` is entered while it is at work, where it has to be brought to its device. ``device``: of the work."""
        if net.stills and space is None:
            raise ValueError("this base is told of pictures: give the video space that encodes them")
        if net.config.parts.levels is not None and silence is None:
            raise ValueError("this network hears speech: give the features of silence")
        self.net, self.windows, self.silence, self.space = net.eval(), windows, silence, space
        self.device, self.watching, self.levels = torch.device(device), watching, net.config.parts.levels

    def start(self, scene: Scene, before: Sequence[Float[Tensor, "s w"]] = ()) -> VideoState:
        """Before the first feature there was silence, or what each speaker said ``before``."""
        nothing, speakers = torch.zeros(1, 0, *scene.event), len(scene.masks)
        if self.levels is None:
            return VideoState(scene=scene, heard=(torch.zeros(0, 0),) * speakers, memories=(), first=0, known=nothing)
        assert self.silence is not None
        quiet = hear_silence(self.silence, self.levels).expand(self.levels.history, -1).clone()
        nobody = (self.silence[None][:0],) * speakers
        earlier = [hear(said, Memory.start(self.levels), self.levels) for said in before or nobody]
        assert len(earlier) == speakers, (len(earlier), speakers)
        return VideoState(
            scene=scene, heard=tuple(torch.cat([quiet, said])[-self.levels.history :] for said, _ in earlier),
            memories=tuple(memory for _, memory in earlier), first=-self.levels.history, known=nothing,
        )

    def whole(
        self, speech: Sequence[Float[Tensor, "s w"]], scene: Scene, *, seed: int, before: Sequence[Float[Tensor, "s w"]] = (),
        progress: Count | None = None,
    ) -> Float[Tensor, "1 t c h w"]:
        """Latents of a whole video: as many as its speech fills with pictures, the last one perhaps in part."""
        state = self.start(scene, before)
        if self.windows.length == "slide":
            return self._slid(speech, state, seed, progress)
        return self.step(speech, state, seed=seed, last=True, progress=progress)[0]

    @torch.no_grad()
    def step(
        self, speech: Sequence[Float[Tensor, "s w"]], state: VideoState, *, seed: int, last: bool = False,
        progress: Count | None = None,
    ) -> tuple[Float[Tensor, "1 t c h w"], VideoState]:
        """Latents that the speech so far determines, and the new state; ``speech``: further features of every speaker, of width 0
        for networks that are deaf. With ``last`` silence follows, and the video ends with the speech."""
        if self.windows.length != "prefix":
            raise ValueError(f"windows of length {self.windows.length!r} need the whole speech at once: give prefix to stream")
        state = self._heard(speech, state, last)
        total = _latents(state.count) if last else None
        made, steps = [state.known[:, :0]], 0
        while total is None or state.done < total:
            window = self._next(state, total)
            if state.first + len(state.heard[0]) < self._needs(window):
                break
            ahead = None if total is None else steps + self._windows_left(state, total) * self._evaluations(state.scene)
            new, state = self._made(window, state, seed, _counted(progress, steps, ahead))
            made.append(new)
            steps += self._evaluations(state.scene)
        return torch.cat(made, 1), state

    def _heard(self, speech: Sequence[Tensor], state: VideoState, last: bool) -> VideoState:
        """The state after further features; with ``last`` also after as much silence as windows may need."""
        if len(speech) != len(state.heard):
            raise ValueError(f"speech of {len(speech)} speakers was given, the scene has {len(state.heard)}: give as many")
        lengths = {len(features) for features in speech}
        if len(lengths) != 1:
            raise ValueError(f"speakers have {sorted(lengths)} features: fill up the shorter ones with silence")
        count, levels = state.count + lengths.pop(), self.levels
        if levels is None:
            spare = 2 * PICTURES if last else 0  # to the end of the last latent
            return replace(state, heard=(torch.zeros(count + spare - state.first, 0),) * len(speech), count=count)
        heard, memories = [], []
        for new, before, memory in zip(speech, state.heard, state.memories, strict=True):
            parts, after = hear(new, memory, levels)
            joined = [before, parts]
            if last:
                assert self.silence is not None
                quiet, _ = hear(self.silence.expand(2 * PICTURES + levels.lookahead, -1), after, levels)
                joined.append(quiet)
            heard.append(torch.cat(joined))
            memories.append(after)
        return replace(state, heard=tuple(heard), memories=tuple(memories), count=count)

    def _next(self, state: VideoState, total: int | None) -> Window:
        """The window that goes on after what is done."""
        known = min(self.windows.prefix, state.done)
        first, size = state.done - known, self.windows.latents
        head: int | None = None
        if first == 0:
            head, last = 0, size
        elif not self.windows.opening or state.scene.reference is None:
            last = first + size
        elif self.net.stills:
            head, last = first, first + size
        else:
            head, last = first - 1, first - 1 + size
        return Window(first=first, last=last if total is None else min(last, total), known=known, head=head)

    def _windows_left(self, state: VideoState, total: int) -> int:
        left = 0
        while state.done < total:
            state = replace(state, done=self._next(state, total).last)
            left += 1
        return left

    def _evaluations(self, scene: Scene) -> int:
        """Steps of one window."""
        return len(self.windows.times(scene.begin)) - 1

    def _needs(self, window: Window) -> int:
        """The number behind the last feature that a window has to hear."""
        stride, lookahead = (2, 0) if self.levels is None else (self.levels.stride, self.levels.lookahead)
        return stride * (window.start + window.pictures - 1) + 1 + lookahead

    def _made(
        self, window: Window, state: VideoState, seed: int, progress: Count
    ) -> tuple[Float[Tensor, "1 n c h w"], VideoState]:
        """The latents of a window that were not known, and the state behind it."""
        scene = state.scene
        still = self._still(window, state) if self.net.stills else None
        condition = self._listen(scene, [self._cut(part, state.first, window) for part in state.heard], window, still)
        noisy = self._begun(scene, range(window.first, window.last), seed)
        field = _counting(self._field(condition, scene), progress)
        times = self.windows.times(scene.begin)
        if self.net.stills:
            solved = integrate(field, noisy, condition, times=times, step=euler)[:, window.known :]
        else:
            clean, front = self._clean(window, state)
            if front:
                noisy = torch.cat([noisy[:, :1], noisy], 1)
            solved = integrate(pinned(field, clean), with_prefix(noisy, clean), condition, times=times, step=euler)
            solved = solved[:, window.known + front :]
        new, level = self._settled(solved.cpu(), state.level, begins=window.first + window.known == 0)
        known = torch.cat([state.known, new], 1)[:, -self.windows.prefix :]
        after = replace(state, known=known.clone(), done=window.last, level=level)
        if self.net.stills and self.windows.opening:
            after = self._watched(new, after)
        return new, self._forgotten(after)

    def _clean(self, window: Window, state: VideoState) -> tuple[Float[Tensor, "1 p c h w"], int]:
        """What is known of a window, and how many latents in front of it that is not the window's own."""
        known, reference = state.known[:, state.known.shape[1] - window.known :].to(self.device), state.scene.reference
        if window.first + window.known == 0 and reference is not None:
            return reference.latent.to(self.device), 0
        if window.head is not None and window.first > 0:
            assert reference is not None
            return torch.cat([reference.latent.to(self.device), known], 1), 1
        return known, 0

    def _still(self, window: Window, state: VideoState) -> Float[Tensor, "1 t s h w"]:
        """Masks and latents of the pictures that a window begins with: the reference, or the latest that were made."""
        reference, count = state.scene.reference, window.last - window.first
        if reference is None:
            raise ValueError("this base begins a video with a picture: give a reference")
        assert self.space is not None
        with self.watching():
            if window.head is None:
                opening = self.space.opening(reference.picture, count, held=self.windows.held).to(self.device)
            else:
                known = state.tail or (reference.picture,)
                latents = self.space.begun(known, count, held=self.windows.held).to(self.device)
        if window.head is None:
            there = torch.arange(count, device=self.device)[None] < window.known
            own = torch.cat([state.known[:, state.known.shape[1] - window.known :].to(opening), opening[:, window.known :]], 1)
            return still_channels(known_then(own, opening, there), known_pictures(there, self.space.spec, opens=False))
        mask = torch.arange(self.space.spec.pictures(count), device=self.device) < len(known)
        return still_channels(latents, mask[None])

    def _watched(self, new: Float[Tensor, "1 n c h w"], state: VideoState) -> VideoState:
        """The state with the pictures that the next window begins with."""
        assert self.space is not None
        with self.watching():
            pictures, shown = self.space.decode(new, state.shown or self.space.start())
        tail = (*state.tail, *pictures)[-self.space.spec.pictures(min(self.windows.prefix, state.done)) :]
        return replace(state, shown=shown, tail=tail)

    def _forgotten(self, state: VideoState) -> VideoState:
        """The state without features that no later window hears."""
        if self.levels is None:
            return state
        needed = self.levels.stride * PICTURES * (state.done - self.windows.prefix - 1) - self.levels.history
        spare = max(needed - state.first, 0)
        return replace(state, heard=tuple(part[spare:].clone() for part in state.heard), first=state.first + spare)

    def _cut(self, heard: Float[Tensor, "s v"], first: int, window: Window) -> Float[Tensor, "n v"]:
        """What a window hears."""
        if self.levels is None:
            return heard[:0]
        return heard[self.levels.stride * window.start - self.levels.history - first : self._needs(window) - first]

    def _listen(
        self, scene: Scene, heard: Sequence[Float[Tensor, "n v"]], window: Window, still: Float[Tensor, "1 t s h w"] | None
    ) -> VideoCondition:
        frames = -(-window.pictures // PICTURES)

        def place(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else mask.to(self.device).expand(1, frames, -1, -1)

        voices = [] if self.levels is None else [
            Voice(speech=part[None].to(self.device), mask=place(mask)) for part, mask in zip(heard, scene.masks, strict=True)
        ]
        skeleton = None
        if scene.skeleton is not None:
            shown = torch.arange(window.start, window.start + window.pictures).clamp(max=len(scene.skeleton) - 1)
            skeleton = scene.skeleton[shown][None].to(self.device)
        return self.net.listen(
            scene.text.to(self.device), pictures=window.pictures, no_text=_to(scene.no_text, self.device), voices=voices,
            image=_to(scene.image, self.device), still=still, face=_to(scene.face, self.device),
            face_mask=place(scene.face_mask), skeleton=skeleton, intensity=_to(scene.intensity, self.device),
        )

    def _field(self, condition: VideoCondition, scene: Scene) -> VelocityField[VideoCondition]:
        """The guided network; several speakers are guided each in a place of its own, one at the lips where windows say so."""
        scales = {name: scale for name, scale in self.windows.guidance.items() if name in condition.parts}
        if len(condition.voices) > 1:
            speech = scales.pop("speech", 1.0)
            return guided(mask_guided(self.net, [speech] * len(condition.voices)), scales)
        if self.windows.at_lips and scene.lips is not None and "speech" in scales:
            lips = scene.lips.to(self.device)
            return guided(self.net, {**scales, "speech": 1 + (scales["speech"] - 1) * lips})
        return guided(self.net, scales)

    def _begun(self, scene: Scene, frames: range, seed: int) -> Float[Tensor, "1 n c h w"]:
        """Where the flow begins: noise, or the guide under noise."""
        noise = self.windows.temperature * latent_noise(seed, frames, scene.event)
        if scene.guide is not None and scene.begin > 0:
            places = torch.arange(frames.start, frames.stop).clamp(max=scene.guide.shape[1] - 1)
            at = torch.full((1, len(frames)), scene.begin)
            noise = interpolate(noise, scene.guide[:, places].float().cpu(), at).point
        return noise.to(self.device)

    def _settled(
        self, new: Float[Tensor, "1 n c h w"], level: tuple[Tensor, Tensor] | None, *, begins: bool
    ) -> tuple[Float[Tensor, "1 n c h w"], tuple[Tensor, Tensor] | None]:
        """New latents whose channels have the mean and deviation of the first window's. Its first latent, a still, doesn't count;
        a window that is cut short says less of a mean, and is moved by as much less."""
        counted = new[:, 1:] if begins else new
        if not counted.shape[1]:
            return new, level
        axes = (1, 3, 4)
        mean, deviation = counted.mean(axes, keepdim=True), counted.std(axes, keepdim=True, correction=0)
        if level is None:
            return new, (mean, deviation)
        share = self.windows.steady * min(1.0, new.shape[1] / (self.windows.latents - self.windows.prefix - 1))
        if share == 0:
            return new, level
        return torch.lerp(new, (new - mean) / deviation.clamp(min=1e-6) * level[1] + level[0], share), level

    @torch.no_grad()
    def _slid(
        self, speech: Sequence[Tensor], state: VideoState, seed: int, progress: Count | None
    ) -> Float[Tensor, "1 t c h w"]:
        """The whole video at once. Every latent hears what is its own, whichever window it is in."""
        scene, state = state.scene, self._heard(speech, state, last=True)
        total, reference, stills = _latents(state.count), scene.reference, self.net.stills > 0
        window = Window(first=0, last=total, known=0, head=0)
        size = self.windows.latents
        still = self._still(replace(window, last=min(size + 1, total)), state) if stills else None
        condition = self._listen(scene, [self._cut(part, state.first, window) for part in state.heard], window, still)
        noise, field = self._begun(scene, range(total), seed), self._field(condition, scene)
        clean = noise[:, :0] if reference is None or stills else reference.latent.to(self.device)
        front = reference is not None

        def velocity(point: Tensor, time: Tensor, frames: range) -> Tensor:
            outside = front and frames.start > 0  # the reference is put in front
            own = condition.between(frames.start - outside, frames.stop)
            if still is not None:
                own = replace(own, still=still[:, : len(frames) + outside])
            if outside:
                assert reference is not None
                latent = reference.latent.to(point)
                shown = interpolate(noise[:, :1], latent, time[:, :1]).point if stills else latent
                point, time = torch.cat([shown, point], 1), torch.cat([time[:, :1], time], 1)
            known = clean if outside or frames.start == 0 else clean[:, :0]
            return pinned(field, known)(point, time, own)[:, int(outside) :]

        times = self.windows.times(scene.begin)
        told, step = progress or _nobody, iter(range(1, len(times)))

        def counted(point: Tensor, time: Tensor, frames: range) -> Tensor:
            moved = velocity(point, time, frames)
            if frames.stop == total:
                told(next(step), len(times) - 1)
            return moved

        begun = with_prefix(noise, clean)
        return integrate_sliding(counted, begun, times=times, length=size, shift=self.windows.slide).cpu()


def latent_noise(seed: int, frames: range, event: Sequence[int]) -> Float[Tensor, "1 n c h w"]:
    """Standard normal noise; that of latent i is a function of (seed, i) alone."""
    numbers = 1
    for size in event:
        numbers *= size
    return frame_noise(seed, frames, numbers).view(1, len(frames), *event)


def _latents(features: int) -> int:
    """Latents that show pictures of two features each, the last of them perhaps in part; one at least."""
    pictures = max(-(-features // 2), 1)
    return 1 + -(-(pictures - 1) // PICTURES)


def _counted(progress: Count | None, before: int, total: int | None) -> Count:
    """Progress of one window within that of all."""
    if progress is None:
        return _nobody
    return lambda done, _: progress(before + done, total)


def _counting(field: VelocityField[VideoCondition], progress: Count) -> VelocityField[VideoCondition]:
    """The field, which says how often it was asked."""
    asked = 0

    def velocity(point: Tensor, time: Tensor, condition: VideoCondition) -> Tensor:
        nonlocal asked
        moved = field(point, time, condition)
        asked += 1
        progress(asked, None)
        return moved

    return velocity


def _to(part: Tensor | None, device: torch.device) -> Tensor | None:
    return None if part is None else part.to(device)


def _nobody(_done: int, _total: int | None) -> None:
    return None
