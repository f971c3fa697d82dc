"""What everything stands on: settings, errors, files, progress. Knows no image and no array."""
