"""From files to tensors: words, frames, pictures, readers of annotation files, and loading."""
