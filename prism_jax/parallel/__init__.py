"""Where the parts run: the cut, the two runners, the processes."""
