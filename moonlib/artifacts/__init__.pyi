from .checksums import SUMS, Damaged, seal, verified
from .directories import attempt, write_json, write_text
from .reading import Unreadable, read_array, read_json, read_mapping, read_numbers, read_table

__all__ = [
    "SUMS",
    "Damaged",
    "Unreadable",
    "attempt",
    "read_array",
    "read_json",
    "read_mapping",
    "read_numbers",
    "read_table",
    "seal",
    "verified",
    "write_json",
    "write_text",
]
