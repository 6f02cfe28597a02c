"""What a checkpoint holds, how two differ, and whether one is what its manifest says. Writes no checkpoint."""
