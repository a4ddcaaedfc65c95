"""Training objectives as functions of tensors. No modules, no parameters, no files."""
