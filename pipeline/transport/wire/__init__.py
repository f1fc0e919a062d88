"""The messages: headers, payloads, and the check of everything that arrives."""
