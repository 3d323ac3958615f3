"""High-value states, recall traces that end in them, and filters of traces."""
