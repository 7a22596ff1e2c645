"""Token ids: encoded with their labels, fitted, stored, packed and collated."""
