"""Networks and statistics of the backtracking model, and values read off losses."""
