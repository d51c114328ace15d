"""Images that stand inside the page."""

from __future__ import annotations

import base64

import cv2

from vjepa_ac_planner.report.records import Image


def data_uri(image: Image, kind: str = "jpg") -> str:
    """An image as a ``data:`` address: ``jpg`` for camera images, ``png`` for maps and small images."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if kind == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    done, data = cv2.imencode(f".{kind}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f"image of shape {image.shape} could not be encoded as {kind}")
    mime = "jpeg" if kind == "jpg" else "png"
    return f"data:image/{mime};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
