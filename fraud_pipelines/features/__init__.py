"""The feature layer: the declarative spec, and everything that computes or documents features from it."""
