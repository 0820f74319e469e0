"""A moonlib source of real pictures: published emoji sets, joined by concept."""
