"""Several processes on one machine: started, watched and ended."""
