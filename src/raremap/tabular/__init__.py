"""Landslides (or anything that is there or not) from tables: columns, folds, models, calibration, and their bundle."""
