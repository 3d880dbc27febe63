"""Whether a file of sound is all there: its own figures of what it holds against what arrived.

libsndfile decodes what there is of a WAV, an OGG or an MP3 file that was cut off on its way, and says nothing. Sources:
RIFF (Multimedia Programming Interface 1.0), RFC 3533 (Ogg), and the Xing header of MP3, which encoders write into the
first frame. An MP3 without that header does not tell how long it is.
"""

from __future__ import annotations

import struct

#: What a header holds whose writer did not know the size yet, such as one that streams.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
_OGG_HEADER_BYTES, _OGG_LAST_PAGE = 27, 4
_XING_BYTES, _XING_HAS_FRAMES = 2, 1
#: Where the Xing header may be: behind the side information of the first frame, whose size is the channels'.
_XING_WITHIN = 256


def is_cut_off(content: bytes, kind: str) -> bool:
    """Say whether a file (WAV, OGG or MP3) holds less than it says of itself."""
    checks = {"WAV": _wav_is_cut_off, "OGG": _ogg_is_cut_off, "MP3": _mp3_is_cut_off}
    return kind in checks and checks[kind](content)


def _wav_is_cut_off(content: bytes) -> bool:
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        if name == b"data":
            return size not in _UNKNOWN_SIZES and at + 8 + size > len(content)
        at += 8 + size + size % 2
    return False  # without samples: whoever decodes it says so


def _ogg_is_cut_off(content: bytes) -> bool:
    """Follow the pages: the last must be whole, and be told to be the last of its stream."""
    at, flags = 0, 0
    while at + _OGG_HEADER_BYTES <= len(content) and content[at : at + 4] == b"OggS":
        flags, segments = content[at + 5], content[at + 26]
        lengths = content[at + _OGG_HEADER_BYTES : at + _OGG_HEADER_BYTES + segments]
        if len(lengths) < segments:
            return True
        at += _OGG_HEADER_BYTES + segments + sum(lengths)
    return at > len(content) or not flags & _OGG_LAST_PAGE


def _mp3_is_cut_off(content: bytes) -> bool:
    first = _behind_id3(content)
    head = content[first : first + _XING_WITHIN]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or at + 16 > len(head):
        return False
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    if not flags & _XING_BYTES:
        return False
    place = at + (12 if flags & _XING_HAS_FRAMES else 8)
    size = int.from_bytes(head[place : place + 4], "big")
    return size not in _UNKNOWN_SIZES and first + size > len(content)


def _behind_id3(content: bytes) -> int:
    """Return where the first frame is: behind an ID3v2 tag, whose size is in seven bits a byte."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = 0
    for byte in content[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size
