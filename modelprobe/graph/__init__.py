"""The picture of a network: nodes and edges of a recorded run, their layout, and the formats it is drawn in."""
