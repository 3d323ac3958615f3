"""What comes after training: a run's policy and model loaded, played, drawn and exported."""
