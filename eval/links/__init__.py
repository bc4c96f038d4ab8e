"""Links between processes: shaped, delayed, measured."""
