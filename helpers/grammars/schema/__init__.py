"""JSON Schema: its logic resolved into sets of values, and these written for llguidance."""
