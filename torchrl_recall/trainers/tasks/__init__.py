"""Tasks and how experience is collected from them (Alg. 1, line 4)."""
