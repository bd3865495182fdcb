"""TypeScript types, read into JSON Schemas."""
