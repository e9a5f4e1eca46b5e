"""Training set, candidate, evaluation, champion and the Bento built from it."""
