"""Recipes: published tables to reproduce, and methods as YAML files for ``memreplay vision train --config``."""
