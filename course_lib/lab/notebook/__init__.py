"""What a notebook shows: figures, tables and explorers."""
