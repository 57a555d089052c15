"""MLPerf's load generator on an engine, and its rule for percentiles."""
