"""Who a face is: descriptors of dlib's face recognition network (128 numbers; King 2017), whose files come from PyPI."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float, UInt8

from vivavoce.latent.mesh import face_box
from vivavoce.latent.tracker import square_crop

WIDTH = 128
_AROUND = 2.2  # sides of the face's box that are shown to dlib
_SIDE = 440  # px of that: the detector wants faces of 80 px and more
_FILES = ("shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat")


class Descriptor:
    """Face descriptors by dlib. ValueError where dlib or its models are not installed."""

    def __init__(self) -> None:
        spec = find_spec("face_recognition_models")  # not imported: it asks for setuptools' pkg_resources, which is gone
        if spec is None or spec.origin is None or find_spec("dlib") is None:
            raise ValueError("identity is not judged, dlib or its models are missing: pip install 'vivavoce[metrics]'")
        import dlib

        shape, network = (str(Path(spec.origin).parent / "models" / name) for name in _FILES)
        self._one_at_a_time = Lock()  # networks of dlib keep what they are working on
        self._detect = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(shape)
        self._network = dlib.face_recognition_model_v1(network)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "478 3"]
    ) -> Float[np.ndarray, " 128"] | None:
        """The descriptor, of length 1, of the face with these landmarks; None where dlib sees no face there."""
        left, top, right, bottom = face_box(points)
        centre = np.array([left + right, top + bottom]) / 2
        crop, _, _ = square_crop(image, centre, _AROUND * max(right - left, bottom - top), _SIDE)
        with self._one_at_a_time:
            boxes = self._detect(crop, 0)
        if not boxes:
            return None
        box = min(boxes, key=lambda b: abs(b.center().x - _SIDE / 2) + abs(b.center().y - _SIDE / 2))
        with self._one_at_a_time:
            found = np.array(self._network.compute_face_descriptor(crop, self._shape(crop, box)))
        return found / np.linalg.norm(found)
