"""Example inputs: given, declared by the model, or guessed from its first layer."""
