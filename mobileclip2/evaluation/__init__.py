"""Zero-shot evaluation with the metrics and the result format of DataComp."""
