"""Trajectories worth learning from, and the state of replay buffers."""
