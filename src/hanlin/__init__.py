"""hanlin (翰林): teach a language model a language, then teach it to follow instructions."""

__version__ = "0.1.0"
