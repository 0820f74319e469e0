"""What a query is contrasted with."""
