"""Integrations: a memory within other people's training loops and data sets.

Each module needs the library that it is named after: `.transformers`, `.lightning`, `.datasets`.
"""
