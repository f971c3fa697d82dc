"""TA adaptation: fine-tunes the TA on the cached ensemble, then only its logits and the fusion are computed again."""
