"""Encoded images: what their headers say, their limits, and how they are read and written."""

from pipeline.images.coding import (
    IMAGE_SUFFIXES,
    JPEG_QUALITY,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    OTHER_IMAGES,
    decode_image,
    decode_jpeg,
    encode_image,
    encode_jpeg,
    is_image,
    read_image,
    size_problem,
)
from pipeline.images.headers import image_size, jpeg_size

__all__ = [
    "IMAGE_SUFFIXES",
    "JPEG_QUALITY",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SCANS",
    "OTHER_IMAGES",
    "decode_image",
    "decode_jpeg",
    "encode_image",
    "encode_jpeg",
    "image_size",
    "is_image",
    "jpeg_size",
    "read_image",
    "size_problem",
]
