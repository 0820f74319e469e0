"""The marketplace: a seeded simulation of products, shoppers, searches and clicks."""
