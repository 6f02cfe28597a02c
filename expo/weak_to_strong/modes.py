"""The two ways to apply the published rules: as they stand, or with their defects mended."""

from enum import StrEnum


class Mode(StrEnum):
    """PUBLISHED repeats the published code draw by draw; MENDED is the default and says what it does otherwise."""

    PUBLISHED = "published"
    MENDED = "mended"
