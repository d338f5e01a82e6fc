"""From draws to decisions: intervals, sampling, the average of a claim, and by the values of a
feature."""
