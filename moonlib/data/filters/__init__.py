"""Functions of the tables that remove rows, and say why."""
