"""Host algorithms, beside which recall learns (Alg. 1, lines 6 and 7)."""
