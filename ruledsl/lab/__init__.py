"""Tasks, training and comparison of rules."""
