"""TAs (teacher assistants): semantic models trained on ordinary photos, one kind per module. See CONTRIBUTING.md."""
