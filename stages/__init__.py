"""The stages: each reads artefacts and writes artefacts, and none imports another."""
