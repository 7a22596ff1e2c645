"""Text, recipe and report page of the demo."""
