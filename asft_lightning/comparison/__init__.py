"""Methods side by side: many runs of one file, their results, and the report. Above the modules, beside the command line."""
