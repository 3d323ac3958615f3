"""Results of any run folders: rows, statistics, a table and a picture."""
