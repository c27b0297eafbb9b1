"""The names and builders of torchvision and timm."""
