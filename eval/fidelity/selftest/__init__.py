"""What each metric can and cannot see, shown on planted faults in one's own conversations."""
