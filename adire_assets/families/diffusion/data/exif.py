"""Whether an image's EXIF is whole where it is looked at.

Pillow passes over what it cannot read of a directory that is cut off: a picture would lie on its
side, or keep colours that are not its own, without a word.
"""

import struct

PREFIX = b"Exif\0\0"
ORDERS = {b"II": "<", b"MM": ">"}  # TIFF 6.0, section 2
ENTRY_BYTES = 12
EXIF_POINTER, INTEROPERABILITY_POINTER = 0x8769, 0xA005  # Exif 2.32, 4.6.3


def is_truncated(block: bytes) -> bool:
    """Whether the first directory of an EXIF block, its EXIF directory or the interoperability
    directory in that reaches beyond the block's end; False for what is no such block."""
    while block.startswith(PREFIX):
        block = block[len(PREFIX) :]
    order = ORDERS.get(block[:2])
    if order is None or len(block) < 8:
        return bool(block)
    (place,) = struct.unpack_from(f"{order}I", block, 4)
    for pointer in (EXIF_POINTER, INTEROPERABILITY_POINTER, None):
        entries = _directory(block, order, place)
        if entries is None:
            return True
        place = entries.get(pointer, 0)
        if not place:
            return False
    return False


def _directory(block: bytes, order: str, place: int) -> dict[int | None, int] | None:
    """{tag: its value as an offset} of the directory at `place`; None when it is not whole."""
    if place + 2 > len(block):
        return None
    (number,) = struct.unpack_from(f"{order}H", block, place)
    end = place + 2 + number * ENTRY_BYTES
    if end > len(block):
        return None
    found: dict[int | None, int] = {}
    for entry in range(place + 2, end, ENTRY_BYTES):
        tag, _, _, value = struct.unpack_from(f"{order}HHII", block, entry)
        found.setdefault(tag, value)
    return found
