"""The DVC ledger: which bytes belong to which commit. Dagster computes, the store holds, git and DVC keep the books."""
