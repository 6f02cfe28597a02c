"""The part `stream_in` of hub.py."""

from hub_stream import measure_in as measure

__all__ = ["measure"]
