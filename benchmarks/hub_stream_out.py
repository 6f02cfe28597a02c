"""The part `stream_out` of hub.py."""

from hub_stream import measure_out as measure

__all__ = ["measure"]
