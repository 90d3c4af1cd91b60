"""How well examples transfer, at matched compute, and what crafting costs over bare passes."""
