"""What models are for: one folder per task, and the table of them."""
