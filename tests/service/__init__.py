"""Tests of service/, against a fake engine."""
