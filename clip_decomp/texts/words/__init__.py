"""The word lists of the general pool, by theme; every theme is a dictionary from property to groups of words."""
