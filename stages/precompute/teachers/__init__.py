"""TAs (teacher assistants): semantic models trained on ordinary photos, one kind a module. See CONTRIBUTING.md."""
