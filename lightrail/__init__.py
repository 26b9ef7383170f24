"""Tracked, reproducible language-model experiments on Lightning, Optuna and MLflow."""
