"""Logical tensors that are computed block by block from stored ones, so that planning and methods never know."""
