"""A recipe: its text, what it holds, how it is checked, what a short one stands for."""
