"""A model's parts as ONNX files or ``torch.export`` programs that run without this package."""
