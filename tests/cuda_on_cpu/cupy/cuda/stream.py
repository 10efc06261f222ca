"""CuPy's `cupy.cuda.stream`."""

from .._streams import Event, Stream, get_current_stream, get_elapsed_time

__all__ = ["Event", "Stream", "get_current_stream", "get_elapsed_time"]
