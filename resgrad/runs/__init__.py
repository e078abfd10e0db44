"""What a run and a census are, and what they leave behind."""
