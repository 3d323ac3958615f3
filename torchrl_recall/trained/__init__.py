"""Use of a trained run: load, play, draw, record and export its policy and model."""
