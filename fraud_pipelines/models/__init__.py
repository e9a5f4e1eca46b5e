"""Splitting in time, training, judging, explaining, keeping and promoting models. Only registry.py talks to MLflow."""
