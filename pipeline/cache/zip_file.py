"""Packs the files of an image's Zarr group into a zip file in memory, and unpacks them.

Members are stored uncompressed, since chunks are compressed already. Equal members give equal bytes: order and times
are fixed. Any program that reads Zarr from zip files (zarr-python's `ZipStore`) reads these.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF_8 = 0x1, 0x800


def pack(members: Mapping[str, bytes]) -> bytes:
    """Returns a zip file of the members by path."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)  # dated 1980
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name])
    return stream.getvalue()


def unpack(data: bytes, *, check: bool) -> dict[str, memoryview]:
    """Returns the members of a zip file by path, as views of `data`; nothing is copied.

    `check` compares each member with its CRC-32, which is needed unless `data` was checked as a whole. Raises
    `ValueError` if the file is no zip file, is damaged, or holds compressed or encrypted members.
    """
    view = memoryview(data)
    members: dict[str, memoryview] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
                    raise ValueError(f"member {info.filename!r} is compressed or encrypted, expected it stored")
                magic, name_length, extra_length = _LOCAL_HEADER.unpack_from(data, info.header_offset)
                start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
                member = view[start : start + info.file_size]
                if magic != b"PK\x03\x04" or len(member) != info.file_size:
                    raise ValueError(f"member {info.filename!r} is cut")
                name = bytes(view[start - extra_length - name_length : start - extra_length])
                if name != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437"):
                    raise ValueError(f"member {info.filename!r} has another name where its content is")
                if check and zlib.crc32(member) != info.CRC:
                    raise ValueError(f"member {info.filename!r} does not have the content it was written with")
                if not info.is_dir():
                    members[info.filename] = member
    except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeError, EOFError, OSError) as error:
        raise ValueError(f"is no complete zip file ({error})") from None
    return members
