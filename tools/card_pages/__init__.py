"""Model cards and data sheets, for tools/cards.py."""
