"""What a run can do beside its verdicts. The rest needs none of it."""
