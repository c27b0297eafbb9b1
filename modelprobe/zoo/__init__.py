"""Questions about many networks: which fits a budget, which one a file is; the index of both zoos that answers them."""
