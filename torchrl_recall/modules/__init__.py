"""Networks and statistics of the backtracking model, and values from the networks of losses."""
