"""One run in its folder: log, checkpoints, signals."""
