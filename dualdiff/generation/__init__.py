"""From a request to clips on disk: the pipeline, what it accepts, and what it writes."""
