"""Recipes and the one trainer that fits them."""
