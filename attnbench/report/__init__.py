"""What people look at: the comparison in the terminal, verdicts, and the report as one HTML file."""
