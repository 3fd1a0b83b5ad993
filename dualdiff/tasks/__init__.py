"""The trainings and the encoding as tasks of a project."""
