"""A year of published grocery baskets, and the promotions of its weeks."""
