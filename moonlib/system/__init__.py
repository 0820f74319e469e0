"""The operating system below: files, locks, processes, signals, the terminal, and versions of what is installed."""
