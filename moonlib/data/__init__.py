"""The five tables, the shards made of them, and the batches read from those."""
