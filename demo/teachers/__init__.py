"""The demo's two TAs (teacher assistants): ordinary mmsegmentation models, trained on the demo world's photos only."""
