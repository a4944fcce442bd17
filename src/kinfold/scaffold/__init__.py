"""The tool: everything behind the command `scaffold`. The runtime never imports it."""
