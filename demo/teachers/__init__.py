"""The demo's two teacher assistants (TAs): mmsegmentation models that are trained on the demo world's photos only."""
