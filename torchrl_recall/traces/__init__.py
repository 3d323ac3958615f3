"""High-value states, the traces that end in them, and filters of traces."""
