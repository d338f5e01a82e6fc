"""Each adversary searches the swap sets that a claim allows for the one that makes it look
worst."""
