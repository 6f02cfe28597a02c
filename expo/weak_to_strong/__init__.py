"""Weak-to-strong pipelines: what a weak model writes, a strong model learns from, chooses among, and outgrows."""
