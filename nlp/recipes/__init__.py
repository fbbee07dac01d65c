"""Recipes: published tables to reproduce."""
