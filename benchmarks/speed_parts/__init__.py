"""Parts of ``speed.py`` that need more than a function."""
