"""Where the elements of every activation come from: numbers of places, carried through the operators of a model."""
