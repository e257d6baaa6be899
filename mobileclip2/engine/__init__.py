"""Incremental computation: the graph, fingerprints, plans, staleness, tasks, lineage, gc and cost."""
