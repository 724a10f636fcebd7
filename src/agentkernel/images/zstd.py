"""Decompresses zstd by the system's libzstd. Imports only the standard library, and loads the system's when it is first needed."""

from __future__ import annotations

import ctypes
import weakref
from functools import cache

MAX_WINDOW_LOG = 27  # 128 MiB of memory at most; what `zstd -d` accepts too unless it is told otherwise (RFC 8878 wants 8 MiB)
_PARAMETER_WINDOW_LOG_MAX = 100  # ZSTD_d_windowLogMax (zstd.h)
_LIBRARIES = ("libzstd.so.1", "libzstd.1.dylib")


class ZstdError(Exception):
    """The stream is damaged, or wants more memory than it may have."""


def decompressor() -> Decompressor | None:
    """A decompressor of one frame; None: this host has no libzstd."""
    library = _system_library()
    return Decompressor(library) if library is not None else None


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer: memory, its size, and how much of it is used."""

    _fields_ = (("memory", ctypes.c_void_p), ("size", ctypes.c_size_t), ("used", ctypes.c_size_t))


class Decompressor:
    """Decompresses one frame, and after `again` another; used as `bz2.BZ2Decompressor` is."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._stream = ctypes.c_void_p(library.ZSTD_createDStream())
        weakref.finalize(self, library.ZSTD_freeDStream, self._stream)
        library.ZSTD_DCtx_setParameter(self._stream, _PARAMETER_WINDOW_LOG_MAX, MAX_WINDOW_LOG)
        self._room = ctypes.create_string_buffer(0)
        self.again()

    def again(self) -> None:
        """Begins the next frame: cheaper than another decompressor, of which there might be millions."""
        self._pending = b""
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most `max_length` bytes more; raises ZstdError."""
        data = self._pending + data
        if len(self._room) < max_length:
            self._room = ctypes.create_string_buffer(max_length)
        room = self._room
        source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
        target = _Buffer(ctypes.cast(room, ctypes.c_void_p), max_length, 0)
        while source.used < source.size or target.used == 0:
            before = source.used, target.used
            left = self._library.ZSTD_decompressStream(self._stream, ctypes.byref(target), ctypes.byref(source))
            if self._library.ZSTD_isError(left):
                raise ZstdError(self._library.ZSTD_getErrorName(left).decode())
            self.eof = left == 0
            if self.eof or target.used == target.size or (source.used, target.used) == before:
                break
        rest = data[source.used :]
        self._pending, self.unused_data = (b"", rest) if self.eof else (rest, b"")
        self.needs_input = not self.eof and not rest and target.used < target.size
        return ctypes.string_at(room, target.used)


@cache
def _system_library() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        library.ZSTD_createDStream.restype = pointer
        library.ZSTD_freeDStream.restype, library.ZSTD_freeDStream.argtypes = size, (pointer,)
        library.ZSTD_DCtx_setParameter.restype, library.ZSTD_DCtx_setParameter.argtypes = size, (pointer, ctypes.c_int, ctypes.c_int)
        library.ZSTD_decompressStream.restype, library.ZSTD_decompressStream.argtypes = size, (pointer, pointer, pointer)
        library.ZSTD_isError.restype, library.ZSTD_isError.argtypes = ctypes.c_uint, (size,)
        library.ZSTD_getErrorName.restype, library.ZSTD_getErrorName.argtypes = ctypes.c_char_p, (size,)
        return library
    return None
