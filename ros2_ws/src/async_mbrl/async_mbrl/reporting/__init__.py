"""What a person sees of a run: the terminal while it goes on, report and pictures after it."""
