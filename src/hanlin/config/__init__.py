"""What a run is told: dataclasses, one per concern, read from YAML and flags. Nothing here imports torch."""
