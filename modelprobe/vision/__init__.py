"""What a model sees: features, class activation maps, attention maps, predictions."""
