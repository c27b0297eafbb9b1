"""Everything about one model: the answers of several commands as one report, and as one page with the graph."""
