"""Pages and services for people in a clinic. They bind to this machine alone and ask for a token."""
