"""Results as files, tables, a report and plots."""
