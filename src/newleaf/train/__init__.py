"""Training: the one loop, its optimizer and schedules, the dial that chooses a size, and the run folder."""
