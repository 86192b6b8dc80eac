"""What does each command take and print? A file for each group; what it does is one folder up."""
