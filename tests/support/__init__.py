"""What several test modules share: waiting, processes, recorders."""
