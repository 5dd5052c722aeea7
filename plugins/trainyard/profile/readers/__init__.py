"""Readers: the only part of the package that touches files. Each returns ``RankTrace`` records."""
