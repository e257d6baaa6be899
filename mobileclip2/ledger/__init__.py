"""The DVC ledger, which records in git what the store holds for each commit."""
