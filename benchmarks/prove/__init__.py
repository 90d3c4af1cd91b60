"""Proof of the claims: hostile input, fuzzing, faults, a year in an hour, guards taken out."""
